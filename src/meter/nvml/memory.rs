//! The GPU's memory: its power and its temperature, where the driver gives them by themselves.

use std::os::raw::c_uint;

use nvml_wrapper::Device;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::struct_wrappers::device::FieldValueSample;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{NVML_FI_DEV_MEMORY_TEMP, NVML_FI_DEV_POWER_AVERAGE};
use nvml_wrapper_sys::bindings::nvmlFieldValue_t;

use super::ring::number;

/// `NVML_POWER_SCOPE_MEMORY` of `nvml.h`: the part of the board's power that the memory takes.
const MEMORY: c_uint = 2;

/// Power of the memory in watts: the average of the last second (field 185, scope 2). An H100 has no other: its
/// instantaneous power (field 186) is that of the board alone.
pub(super) fn memory_watts(device: &Device) -> Result<f64, NvmlError> {
    let value = scoped(device, NVML_FI_DEV_POWER_AVERAGE, MEMORY)?;
    Ok(number(&value) / 1000.0)
}

/// Temperature of the memory in °C (field 82). A GPU without a sensor there says 0 or has no such field.
pub(super) fn memory_temperature(device: &Device) -> Result<f64, NvmlError> {
    let fields = device.field_values_for(&[FieldId(NVML_FI_DEV_MEMORY_TEMP)])?;
    let celsius = number(&fields.into_iter().next().ok_or(NvmlError::NotFound)??.value?);
    if celsius > 0.0 { Ok(celsius) } else { Err(NvmlError::NotSupported) }
}

/// One field of a scope of the device, which nvml-wrapper's own call can't name.
fn scoped(device: &Device, field: u32, scope: c_uint) -> Result<SampleValue, NvmlError> {
    let call = device.nvml().lib().nvmlDeviceGetFieldValues.as_ref().map_err(|_| NvmlError::FunctionNotFound)?;
    // SAFETY: a structure of numbers, for which zeros are valid
    let mut value: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
    (value.fieldId, value.scopeId) = (field, scope);
    // SAFETY: the handle is that of a device that is open, and `value` is the one structure that the driver fills
    nvml_try(unsafe { call(device.handle(), 1, &raw mut value) })?;
    FieldValueSample::try_from(value)?.value
}
