//! Holds a softmax in Rust against conformance vectors, with std only and without Python:
//!
//!     python -m diffuzz export vectors --target softmax
//!     rustc --edition 2021 -O softmax_test.rs && ./softmax_test vectors/softmax.safetensors
//!
//! The layout of the file is in docs/vectors.md. A second argument makes the function wrong.
use std::{env, fs, process};

/// The function under test: f32[b, n] -> f32[b, n].
fn softmax(z: &[f32], n: usize, wrong: bool) -> Vec<f32> {
    let mut y = Vec::with_capacity(z.len());
    for row in z.chunks(n) {
        let top = if wrong { 0.0 } else { row.iter().cloned().fold(f32::NEG_INFINITY, f32::max) };
        let e: Vec<f32> = row.iter().map(|one| (one - top).exp()).collect();
        let sum: f32 = e.iter().sum();
        y.extend(e.iter().map(|one| one / sum));
    }
    y
}

struct Vectors {
    header: String,
    data: Vec<u8>,
}

impl Vectors {
    fn read(path: &str) -> Option<Vectors> {
        let content = fs::read(path).ok()?;
        let start = 8 + u64::from_le_bytes(content.get(..8)?.try_into().ok()?) as usize;
        let header = String::from_utf8(content.get(8..start)?.to_vec()).ok()?;
        let ours = header.contains(r#""format":"diffuzz-vectors","version":"1""#);
        ours.then(|| Vectors { header, data: content[start..].to_vec() })
    }

    /// The numbers in a list of the header, such as a shape.
    fn list(entry: &str, key: &str) -> Option<Vec<usize>> {
        let (_, after) = entry.split_once(&format!("\"{key}\":["))?;
        let (inside, _) = after.split_once(']')?;
        inside.split(',').filter(|one| !one.is_empty()).map(|one| one.trim().parse().ok()).collect()
    }

    /// The shape and the bytes of an array that is stored as it is.
    fn stored(&self, name: &str) -> Option<(Vec<usize>, &[u8])> {
        let (_, entry) = self.header.split_once(&format!("\"{name}\":{{"))?;
        let place = Self::list(entry, "data_offsets")?;
        Some((Self::list(entry, "shape")?, self.data.get(place[0]..place[1])?))
    }

    /// The shape and the bytes of an array: those of runs are written out.
    fn array(&self, name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
        if let Some((shape, bytes)) = self.stored(name) {
            return Some((shape, bytes.to_vec()));
        }
        let whole = |part: &str| -> Option<Vec<usize>> {
            let (_, bytes) = self.stored(&format!("{name}.{part}"))?;
            Some(bytes.chunks(8).map(|one| i64::from_le_bytes(one.try_into().unwrap()) as usize).collect())
        };
        let (runs, values) = self.stored(&format!("{name}.values"))?;
        let unit = values.len() / runs[0];
        let mut bytes = Vec::new();
        for (value, count) in values.chunks(unit).zip(whole("counts")?) {
            bytes.extend(value.repeat(count));
        }
        Some((whole("shape")?, bytes))
    }

    fn f32s(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let (shape, bytes) = self.array(name)?;
        Some((shape, bytes.chunks(4).map(|one| f32::from_le_bytes(one.try_into().unwrap())).collect()))
    }

    fn f64s(&self, name: &str) -> Option<Vec<f64>> {
        let (_, bytes) = self.array(name)?;
        Some(bytes.chunks(8).map(|one| f64::from_le_bytes(one.try_into().unwrap())).collect())
    }
}

fn right(got: f64, exact: f64, allowance: f64) -> bool {
    got == exact || allowance.is_infinite() || (got - exact).abs() <= allowance
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let Some(vectors) = arguments.get(1).and_then(|path| Vectors::read(path)) else {
        eprintln!("usage: softmax_test FILE.safetensors, with vectors of version 1");
        process::exit(2);
    };
    let (mut cases, mut wrong) = (0, 0);
    while let Some((shape, z)) = vectors.f32s(&format!("c{cases:03}/in/z")) {
        let exact = vectors.f64s(&format!("c{cases:03}/exact/0")).expect("an exact result");
        let allowance = vectors.f64s(&format!("c{cases:03}/allowance/0")).expect("an allowance");
        let got = softmax(&z, shape[1], arguments.len() > 2);
        if let Some(i) = (0..got.len()).find(|&i| !right(got[i].into(), exact[i], allowance[i])) {
            println!("c{cases:03} {shape:?}, element {i}: {}, where {} is right within {}", got[i], exact[i], allowance[i]);
            wrong += 1;
        }
        cases += 1;
    }
    println!("{wrong} of {cases} cases wrong");
    process::exit((wrong > 0 || cases == 0).into());
}
