//! A stand-in for `libnvidia-ml.so.1` with six GPUs of known power, for tests of the NVML meter.
//!
//! Each draws 300 W: the counter shows the energy of its last 100 ms tick. They differ in what works:
//! 0 everything · 1 no counter · 2 a counter that stands still · 3 neither counter nor power · 4 split by MIG ·
//! 5 no instantaneous power.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::time::Instant;

const SUCCESS: c_int = 0;
const INVALID_ARGUMENT: c_int = 2;
const NOT_SUPPORTED: c_int = 3;
const MILLIWATTS: u64 = 300_000;
const TICK_MS: u64 = 100;

/// The layout of `nvmlFieldValue_t`.
#[repr(C)]
pub struct FieldValue {
    field_id: c_uint,
    scope_id: c_uint,
    timestamp: i64,
    latency: i64,
    value_type: c_uint,
    status: c_int,
    value: u64,
}

fn milliseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// A handle is the index plus one, since null is no handle.
fn index(device: *mut c_void) -> usize {
    device as usize - 1
}

unsafe fn put(text: &str, into: *mut c_char, length: c_uint) -> c_int {
    assert!(text.len() < length as usize);
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), into, text.len());
        *into.add(text.len()) = 0;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    milliseconds();
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(into: *mut c_char, length: c_uint) -> c_int {
    unsafe { put("580.00-fake", into, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    unsafe { *count = 6 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut *mut c_void) -> c_int {
    if index >= 6 {
        return INVALID_ARGUMENT;
    }
    unsafe { *device = (index as usize + 1) as *mut c_void };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: *mut c_void, into: *mut c_char, length: c_uint) -> c_int {
    unsafe { put(&format!("GPU-fake-{}", index(device)), into, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(_: *mut c_void, into: *mut c_char, length: c_uint) -> c_int {
    unsafe { put("Fake GPU", into, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(device: *mut c_void, into: *mut c_ulonglong) -> c_int {
    let ticks = match index(device) {
        1 | 3 => return NOT_SUPPORTED,
        2 => 0,
        _ => milliseconds() / TICK_MS,
    };
    unsafe { *into = 1_000_000 + ticks * TICK_MS * MILLIWATTS / 1000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: *mut c_void, into: *mut c_uint) -> c_int {
    if index(device) == 3 {
        return NOT_SUPPORTED;
    }
    unsafe { *into = MILLIWATTS as c_uint };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(device: *mut c_void, count: c_int, values: *mut FieldValue) -> c_int {
    for value in unsafe { std::slice::from_raw_parts_mut(values, count as usize) } {
        let known = value.field_id == 186 && !matches!(index(device), 3 | 5);
        value.status = if known { SUCCESS } else { NOT_SUPPORTED };
        value.value_type = 1;
        value.value = MILLIWATTS;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: *mut c_void,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> c_int {
    let split = c_uint::from(index(device) == 4);
    unsafe {
        *current = split;
        *pending = split;
    }
    SUCCESS
}
