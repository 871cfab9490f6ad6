// diffuzz.h for Rust: a function of a cdylib as a candidate of diffuzz. What a function is called with, and what it
// returns, is said there. Take it in as
// examples/native/rope.rs does, or copy it beside your source and say `mod diffuzz;`.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::slice::{from_raw_parts, from_raw_parts_mut};

pub const ABI_VERSION: u32 = 1;

#[repr(C)]
pub struct Tensor {
    pub data: *mut c_void,
    pub device: [i32; 2],
    pub ndim: i32,
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
    pub shape: *const i64,
    pub strides: *const i64,
    pub byte_offset: u64,
}

#[repr(C)]
pub struct Array {
    pub name: *const c_char,
    pub tensor: Tensor,
}

#[repr(C)]
pub struct Parameter {
    pub name: *const c_char,
    pub kind: i32, // 1 an integer or a truth value, 2 a number, 3 a text
    pub reserved: i32,
    pub integer: i64,
    pub number: f64,
    pub text: *const c_char,
}

#[repr(C)]
pub struct Call {
    pub version: u32,
    pub reserved: u32,
    pub operation: *const c_char,
    pub input_count: i64,
    pub inputs: *const Array,
    pub result_count: i64,
    pub results: *const Array,
    pub parameter_count: i64,
    pub parameters: *const Parameter,
    pub message: *mut c_char,
    pub message_size: i64,
}

/// Which version of this file the library was compiled with.
#[no_mangle]
pub extern "C" fn diffuzz_abi_version() -> u32 {
    ABI_VERSION
}

fn text<'a>(pointer: *const c_char) -> &'a str {
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or("")
}

impl Tensor {
    pub fn shape(&self) -> Vec<usize> {
        (0..self.ndim as usize).map(|i| unsafe { *self.shape.add(i) } as usize).collect()
    }

    /// The size of the last dimension.
    pub fn last(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    fn first(&self) -> *mut u8 {
        unsafe { (self.data as *mut u8).add(self.byte_offset as usize) }
    }

    /// The elements, which must be of the type `T`.
    pub fn slice<T>(&self) -> &[T] {
        assert_eq!(self.bits as usize, 8 * size_of::<T>(), "elements of another size");
        unsafe { from_raw_parts(self.first() as *const T, self.shape().iter().product()) }
    }

    /// The elements of a result, which must be of the type `T`, to be written.
    #[allow(clippy::mut_from_ref)]
    pub fn slice_mut<T>(&self) -> &mut [T] {
        assert_eq!(self.bits as usize, 8 * size_of::<T>(), "elements of another size");
        unsafe { from_raw_parts_mut(self.first() as *mut T, self.shape().iter().product()) }
    }
}

impl Call {
    pub fn input(&self, name: &str) -> Option<&Tensor> {
        let all = unsafe { from_raw_parts(self.inputs, self.input_count as usize) };
        all.iter().find(|one| text(one.name) == name).map(|one| &one.tensor)
    }

    pub fn output(&self, number: usize) -> Option<&Tensor> {
        let all = unsafe { from_raw_parts(self.results, self.result_count as usize) };
        all.get(number).map(|one| &one.tensor)
    }

    fn parameter(&self, name: &str) -> Option<&Parameter> {
        let all = unsafe { from_raw_parts(self.parameters, self.parameter_count as usize) };
        all.iter().find(|one| text(one.name) == name)
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        self.parameter(name).filter(|one| one.kind != 3).map(|one| one.number)
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        self.parameter(name).filter(|one| one.kind == 1).map(|one| one.integer)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.parameter(name).filter(|one| one.kind == 3).map(|one| text(one.text))
    }

    /// 0, or 1 and the message of an error: what a function returns to diffuzz.
    pub fn answer(&self, result: Result<(), String>) -> c_int {
        let Err(why) = result else { return 0 };
        let room = unsafe { from_raw_parts_mut(self.message as *mut u8, self.message_size as usize) };
        let length = why.len().min(room.len() - 1);
        room[..length].copy_from_slice(&why.as_bytes()[..length]);
        room[length] = 0;
        1
    }
}
