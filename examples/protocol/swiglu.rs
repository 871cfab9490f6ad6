// swiglu as a program, in Rust without a crate for JSON (docs/protocol.md).
//
//   rustc --edition 2021 -O swiglu.rs -o swiglu
//   python -m diffuzz search --target swiglu --candidate 'run: ./swiglu'
use std::io::{stdin, stdout, Read, Result, Write};

fn write_frame(header: &str, body: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(b"DFZ1")?;
    out.write_all(&(header.len() as u32).to_le_bytes())?;
    out.write_all(&(body.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    out.write_all(body)?;
    out.flush()
}

/// The number after `key` in what describes the input `name`: headers have no spaces, and their keys a fixed order.
fn number(header: &str, name: &str, key: &str) -> Option<usize> {
    let input = header.split(&format!("{{\"name\":\"{name}\",\"dtype\":\"float32\",")).nth(1)?;
    input.split(&format!("\"{key}\":")).nth(1)?.split([',', '}']).next()?.parse().ok()
}

fn floats<'a>(header: &str, body: &'a [u8], name: &str) -> Option<impl Iterator<Item = f32> + 'a> {
    let (offset, bytes) = (number(header, name, "offset")?, number(header, name, "bytes")?);
    let part = body.get(offset..offset + bytes)?;
    Some(part.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())))
}

fn swiglu(header: &str, body: &[u8]) -> Option<Vec<u8>> {
    let (gate, up) = (floats(header, body, "gate")?, floats(header, body, "up")?);
    let silu = |x: f32| x as f64 / (1.0 + (-x as f64).exp());
    Some(gate.zip(up).flat_map(|(g, u)| ((silu(g) * u as f64) as f32).to_le_bytes()).collect())
}

fn main() -> Result<()> {
    let mut input = stdin().lock();
    let mut prefix = [0; 16];
    // It ends where there are no more requests.
    while input.read_exact(&mut prefix).is_ok() {
        let mut header = vec![0; u32::from_le_bytes(prefix[4..8].try_into().unwrap()) as usize];
        let mut body = vec![0; u64::from_le_bytes(prefix[8..].try_into().unwrap()) as usize];
        input.read_exact(&mut header)?;
        input.read_exact(&mut body)?;
        let header = String::from_utf8_lossy(&header);
        if header.starts_with("{\"message\":\"describe\"") {
            write_frame("{\"message\":\"describe\",\"protocol\":1,\"operations\":[\"swiglu\"]}", &[])?;
            continue;
        }
        match swiglu(&header, &body) {
            Some(result) => write_frame("{\"message\":\"result\"}", &result)?,
            None => write_frame("{\"message\":\"skip\",\"text\":\"float32 only\"}", &[])?,
        }
    }
    Ok(())
}
