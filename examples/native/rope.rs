// rope of each head, in Rust.
//
//   DIFFUZZ_INCLUDE="$(python -m diffuzz include)" rustc --edition 2021 -O --crate-type cdylib rope.rs -o rope.so
//   python -m diffuzz search --target rope --candidate rope.so:rope
#[allow(dead_code)]
mod diffuzz {
    include!(concat!(env!("DIFFUZZ_INCLUDE"), "/diffuzz.rs"));
}
use diffuzz::Call;

fn rotated(call: &Call) -> Option<()> {
    let (x, out) = (call.input("x")?, call.output(0)?);
    let positions = call.input("positions")?.slice::<i32>();
    let (base, neox) = (call.number("base")?, call.text("mode")? == "neox");
    let (d, heads) = (x.last(), x.shape()[1]);
    for (row, (x, y)) in x.slice::<f32>().chunks(d).zip(out.slice_mut::<f32>().chunks_mut(d)).enumerate() {
        for i in 0..d / 2 {
            let angle = positions[row / heads] as f64 * base.powf(-2.0 * i as f64 / d as f64);
            let (a, b) = if neox { (i, i + d / 2) } else { (2 * i, 2 * i + 1) };
            let (sin, cos) = angle.sin_cos();
            y[a] = (x[a] as f64 * cos - x[b] as f64 * sin) as f32;
            y[b] = (x[a] as f64 * sin + x[b] as f64 * cos) as f32;
        }
    }
    Some(())
}

#[no_mangle]
pub extern "C" fn rope(call: &Call) -> i32 {
    call.answer(rotated(call).ok_or_else(|| "an argument is missing".to_string()))
}
