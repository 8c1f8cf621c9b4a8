//! A stand-in for `libnvidia-ml.so.1` with GPUs of known power, for tests of the NVML meter.
//!
//! Each GPU follows a script: what its driver can tell ([`SCRIPTS`]), and a power over time that starts at 300 W and
//! that a test changes with [`fake_set`]. Everything else follows from that power as it does on an H100: a counter that
//! ticks every 100 ms, a ring of samples about 20 ms apart that holds 2.4 s, a `power_usage` that is the average of the
//! last second. [`fake_energy`] gives the true energy between two instants.
//!
//! In a process of its own, where no test can call anything, `FAKE_NVML_POWER` names a file that says the power of every
//! GPU: lines of a Unix time and the watts from then on.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SUCCESS: c_int = 0;
const INVALID_ARGUMENT: c_int = 2;
const NOT_SUPPORTED: c_int = 3;
const NO_PERMISSION: c_int = 4;
const NOT_FOUND: c_int = 6;
const INSUFFICIENT_SIZE: c_int = 7;
const GPU_IS_LOST: c_int = 15;

/// `NVML_VALUE_TYPE_UNSIGNED_INT`.
const UNSIGNED_INT: c_uint = 1;
/// `NVML_TOTAL_POWER_SAMPLES`.
const POWER_SAMPLES: c_uint = 0;
/// `NVML_FI_DEV_POWER_INSTANT`.
const POWER_INSTANT: c_uint = 186;
/// `NVML_FI_DEV_POWER_AVERAGE`.
const POWER_AVERAGE: c_uint = 185;
/// `NVML_FI_DEV_MEMORY_TEMP`.
const MEMORY_TEMPERATURE: c_uint = 82;
/// `NVML_POWER_SCOPE_GPU` and `NVML_POWER_SCOPE_MEMORY`.
const BOARD: c_uint = 0;
const MEMORY: c_uint = 2;
/// The memory takes this share of the power, and is so many degrees hotter.
const MEMORY_SHARE: f64 = 0.3;
const MEMORY_HOTTER: f64 = 14.0;

const START_WATTS: f64 = 300.0;
/// Sensor values and counters change this often, in seconds.
const TICK: f64 = 0.1;
/// Nominal spacing of the ring, in microseconds, and how many samples it holds.
const RING_SPACING: u64 = 20_000;
const RING_LENGTH: u64 = 120;
/// The time at which the script starts, in seconds: the ring is full from the start.
const START: f64 = 10.0;

/// What the driver of a GPU can tell, and how the GPU is set up.
#[derive(Clone, Copy)]
struct Script {
    counter: Counter,
    ring: Ring,
    /// Field 186.
    instant: bool,
    /// Power of the memory (scope 2 of field 185) and its temperature (field 82).
    memory: bool,
    /// `nvmlDeviceGetPowerUsage`.
    usage: bool,
    mig: bool,
    name: &'static str,
    /// `nvmlDeviceArchitecture_t`.
    architecture: c_uint,
    /// What a reading of the counter takes.
    call: Duration,
}

#[derive(Clone, Copy, PartialEq)]
enum Counter {
    Works,
    Unsupported,
    StandsStill,
    Denied,
}

#[derive(Clone, Copy, PartialEq)]
enum Ring {
    Works,
    Unsupported,
    /// A sample every 100 ms.
    Coarse,
    Empty,
}

const HOPPER: c_uint = 9;
const AMPERE: c_uint = 7;

const FULL: Script = Script {
    counter: Counter::Works,
    ring: Ring::Works,
    instant: true,
    memory: false,
    usage: true,
    mig: false,
    name: "Fake GPU",
    architecture: HOPPER,
    call: Duration::from_millis(3),
};

/// GPUs of one kind stand several times, since each test steers one of its own.
const SCRIPTS: [Script; 25] = [
    FULL,
    Script { counter: Counter::Unsupported, ..FULL },
    Script { counter: Counter::StandsStill, ..FULL },
    // 3: tells nothing
    Script { counter: Counter::Unsupported, ring: Ring::Unsupported, instant: false, usage: false, ..FULL },
    Script { mig: true, ..FULL },
    // 5, 6, 7: no ring; nothing but the counter and the average of a second; nothing but that average
    Script { ring: Ring::Unsupported, ..FULL },
    Script { ring: Ring::Unsupported, instant: false, ..FULL },
    Script { counter: Counter::Unsupported, ring: Ring::Unsupported, instant: false, ..FULL },
    // 8, 9: rings that can't be used
    Script { ring: Ring::Coarse, ..FULL },
    Script { ring: Ring::Empty, ..FULL },
    // 10: an A100, whose power usage is what it is now
    Script { ring: Ring::Unsupported, instant: false, name: "NVIDIA A100-SXM4-80GB", architecture: AMPERE, ..FULL },
    // 11: a counter that may not be read
    Script { counter: Counter::Denied, ..FULL },
    // 12 to 23: for tests that steer them
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    // 24: shows its memory's power and temperature
    Script { memory: true, ..FULL },
];

/// What a test has made of a GPU.
#[derive(Clone)]
struct State {
    /// From when on which power, in seconds and watts.
    power: Vec<(f64, f64)>,
    /// When the counter began anew, and where.
    resets: Vec<(f64, f64)>,
    lost: bool,
    counter_stopped: Option<f64>,
    ring_stopped: Option<f64>,
    processes: Vec<c_uint>,
    clock_events: u64,
    temperature: c_uint,
    /// Calls of the counter so far.
    counter_calls: u64,
    ring_calls: u64,
}

/// What [`fake_set`] can change; the numbers are the tests' too.
mod what {
    pub const POWER_MW: u32 = 0;
    pub const LOST: u32 = 1;
    pub const RESET_COUNTER_MJ: u32 = 2;
    pub const ADD_PROCESS: u32 = 3;
    pub const REMOVE_PROCESS: u32 = 4;
    pub const CLOCK_EVENTS: u32 = 5;
    pub const TEMPERATURE: u32 = 6;
    pub const STOP_RING: u32 = 7;
    pub const STOP_COUNTER: u32 = 8;
}

struct World {
    start: Instant,
    /// Microseconds since 1970 at `start`.
    wall: u64,
    states: Vec<Mutex<State>>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let state = State {
            power: vec![(0.0, START_WATTS)],
            resets: vec![],
            lost: false,
            counter_stopped: None,
            ring_stopped: None,
            processes: vec![],
            clock_events: 0,
            temperature: 45,
            counter_calls: 0,
            ring_calls: 0,
        };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        World { start: Instant::now(), wall, states: (0..SCRIPTS.len()).map(|_| Mutex::new(state.clone())).collect() }
    })
}

/// Seconds of the script.
fn now() -> f64 {
    START + world().start.elapsed().as_secs_f64()
}

/// Microseconds since 1970 at a time of the script.
fn stamp(t: f64) -> u64 {
    world().wall.saturating_add_signed(((t - START) * 1e6).round() as i64)
}

fn state(index: usize) -> MutexGuard<'static, State> {
    let mut state = world().states[index].lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = std::env::var_os("FAKE_NVML_POWER") {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        // a last line without an end is still being written
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let step = |line: &str| {
            let (unix, watts) = line.split_once(' ')?;
            let t = START + unix.parse::<f64>().ok()? - world().wall as f64 * 1e-6;
            Some((t.max(0.0), watts.parse().ok()?))
        };
        state.power.truncate(1);
        state.power.extend(complete.lines().filter_map(step));
    }
    state
}

/// A handle is the index plus one, since null is no handle.
fn index(device: *mut c_void) -> usize {
    device as usize - 1
}

fn script(device: *mut c_void) -> Script {
    SCRIPTS[index(device)]
}

impl State {
    fn watts(&self, t: f64) -> f64 {
        let after = self.power.partition_point(|(from, _)| *from <= t);
        self.power[after.saturating_sub(1)].1
    }

    /// Joules since the script's time 0.
    fn joules(&self, t: f64) -> f64 {
        let ends = self.power.iter().skip(1).map(|(from, _)| *from).chain([f64::INFINITY]);
        self.power.iter().zip(ends).map(|((from, watts), to)| (to.min(t) - from).max(0.0) * watts).sum()
    }

    /// What the counter says: the energy of its last tick, since its last reset.
    fn counter(&self, index: usize, t: f64) -> f64 {
        // ticks of different GPUs fall at different times
        let phase = 0.013 * index as f64 % TICK;
        let t = t.min(self.counter_stopped.unwrap_or(f64::INFINITY));
        let tick = ((t - phase) / TICK).floor() * TICK + phase;
        let (from, base) = self.resets.iter().rev().find(|(at, _)| *at <= tick).copied().unwrap_or((0.0, 1000.0));
        base + self.joules(tick) - self.joules(from)
    }
}

/// Times of the ring's samples in microseconds of the script, newest last: 20 ms apart, give or take 5 ms.
fn ring_times(until: f64, spacing: u64) -> impl Iterator<Item = u64> {
    let newest = (until * 1e6) as u64 / spacing;
    let time = move |k: u64| k * spacing + 5000 + (k * 7919 % 11) * 1000 - 5000;
    (newest.saturating_sub(RING_LENGTH)..=newest).map(time).filter(move |t| *t <= (until * 1e6) as u64)
}

// What tests call.

/// Microseconds of the script.
#[unsafe(no_mangle)]
pub extern "C" fn fake_now() -> f64 {
    now()
}

/// True energy in joules between two times of the script.
#[unsafe(no_mangle)]
pub extern "C" fn fake_energy(index: c_uint, from: f64, to: f64) -> f64 {
    let state = state(index as usize);
    state.joules(to) - state.joules(from)
}

/// How often the counter (0) or the ring (1) was read.
#[unsafe(no_mangle)]
pub extern "C" fn fake_calls(index: c_uint, which: c_uint) -> u64 {
    let state = state(index as usize);
    if which == 0 { state.counter_calls } else { state.ring_calls }
}

/// Changes a GPU from now on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_set(index: c_uint, what: c_uint, value: u64) {
    let t = now();
    let mut state = state(index as usize);
    match what {
        what::POWER_MW => state.power.push((t, value as f64 / 1000.0)),
        what::LOST => state.lost = value != 0,
        what::RESET_COUNTER_MJ => state.resets.push((t, value as f64 / 1000.0)),
        what::ADD_PROCESS => state.processes.push(value as c_uint),
        what::REMOVE_PROCESS => state.processes.retain(|pid| *pid != value as c_uint),
        what::CLOCK_EVENTS => state.clock_events = value,
        what::TEMPERATURE => state.temperature = value as c_uint,
        what::STOP_RING => state.ring_stopped = Some(t),
        what::STOP_COUNTER => state.counter_stopped = Some(t),
        _ => {}
    }
}

// What NVML has, as far as the meter calls it.

/// The state of a GPU that is still there.
fn alive(device: *mut c_void) -> Result<MutexGuard<'static, State>, c_int> {
    let state = state(index(device));
    if state.lost { Err(GPU_IS_LOST) } else { Ok(state) }
}

unsafe fn put(text: &str, into: *mut c_char, length: c_uint) -> c_int {
    if text.len() >= length as usize {
        return INSUFFICIENT_SIZE;
    }
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), into, text.len());
        *into.add(text.len()) = 0;
    }
    SUCCESS
}

/// Writes what a GPU that is still there answers.
unsafe fn give<T>(device: *mut c_void, into: *mut T, answer: impl FnOnce(&mut State) -> Result<T, c_int>) -> c_int {
    let answer = alive(device).and_then(|mut state| answer(&mut state));
    match answer {
        Ok(value) => {
            unsafe { *into = value };
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    world();
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(into: *mut c_char, length: c_uint) -> c_int {
    unsafe { put("580.00-fake", into, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    unsafe { *count = SCRIPTS.len() as c_uint };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut *mut c_void) -> c_int {
    if index as usize >= SCRIPTS.len() {
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
pub unsafe extern "C" fn nvmlDeviceGetName(device: *mut c_void, into: *mut c_char, length: c_uint) -> c_int {
    unsafe { put(script(device).name, into, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetVbiosVersion(_: *mut c_void, into: *mut c_char, length: c_uint) -> c_int {
    unsafe { put("96.00.FA.KE.01", into, length) }
}

/// The layout of `nvmlPciInfo_t`.
#[repr(C)]
pub struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: *mut c_void, into: *mut PciInfo) -> c_int {
    let bus = index(device) as c_uint;
    let text = format!("00000000:{bus:02X}:00.0");
    let mut info = PciInfo {
        bus_id_legacy: [0; 16],
        domain: 0,
        bus,
        device: 0,
        device_id: 0x2330_10de,
        subsystem_id: 0,
        bus_id: [0; 32],
    };
    for (place, byte) in info.bus_id.iter_mut().zip(text.bytes()) {
        *place = byte as c_char;
    }
    for (place, byte) in info.bus_id_legacy.iter_mut().zip(text[4..].bytes()) {
        *place = byte as c_char;
    }
    unsafe { *into = info };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: *mut c_void, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(650_000)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementDefaultLimit(device: *mut c_void, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(700_000)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPersistenceMode(device: *mut c_void, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(1)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEccMode(_: *mut c_void, current: *mut c_uint, pending: *mut c_uint) -> c_int {
    unsafe {
        *current = 1;
        *pending = 1;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: *mut c_void,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> c_int {
    let split = c_uint::from(script(device).mig);
    unsafe {
        *current = split;
        *pending = split;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryBusWidth(device: *mut c_void, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(5120)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetArchitecture(device: *mut c_void, into: *mut c_uint) -> c_int {
    let architecture = script(device).architecture;
    unsafe { give(device, into, |_| Ok(architecture)) }
}

/// Clock types: 0 graphics, 1 SM, 2 memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(device: *mut c_void, clock: c_uint, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(if clock == 2 { 2619 } else { 1980 })) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: *mut c_void, clock: c_uint, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(if clock == 2 { 2619 } else { 1755 })) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(device: *mut c_void, _: c_uint, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |state| Ok(state.temperature)) }
}

/// The layout of `nvmlUtilization_t`: percent of the time in which a kernel ran, and of that in which memory was accessed.
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: *mut c_void, into: *mut Utilization) -> c_int {
    unsafe { give(device, into, |_| Ok(Utilization { gpu: 85, memory: 40 })) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPerformanceState(device: *mut c_void, into: *mut c_uint) -> c_int {
    unsafe { give(device, into, |_| Ok(0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: *mut c_void,
    into: *mut c_ulonglong,
) -> c_int {
    unsafe { give(device, into, |state| Ok(state.clock_events)) }
}

/// The layout of `nvmlProcessInfo_t`.
#[repr(C)]
pub struct ProcessInfo {
    pid: c_uint,
    memory: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Says how many there are where there is no room, and fills the room where there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: *mut c_void,
    count: *mut c_uint,
    into: *mut ProcessInfo,
) -> c_int {
    let processes = match alive(device) {
        Ok(state) => state.processes.clone(),
        Err(code) => return code,
    };
    let room = unsafe { *count } as usize;
    unsafe { *count = processes.len() as c_uint };
    if processes.len() > room || (into.is_null() && !processes.is_empty()) {
        return INSUFFICIENT_SIZE;
    }
    for (place, pid) in processes.into_iter().enumerate() {
        let none = c_uint::MAX;
        let info = ProcessInfo { pid, memory: 1 << 30, gpu_instance: none, compute_instance: none };
        unsafe { into.add(place).write(info) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(device: *mut c_void, into: *mut c_ulonglong) -> c_int {
    let Script { counter, call, .. } = script(device);
    if counter == Counter::Works {
        std::thread::sleep(call);
    }
    let answer = |state: &mut State| {
        state.counter_calls += 1;
        match counter {
            Counter::Works => Ok((state.counter(index(device), now()) * 1000.0).round() as u64),
            Counter::StandsStill => Ok(1_000_000),
            Counter::Unsupported => Err(NOT_SUPPORTED),
            Counter::Denied => Err(NO_PERMISSION),
        }
    };
    unsafe { give(device, into, answer) }
}

/// The average of the last second, which the driver renews every 100 ms; what is now, on an A100.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: *mut c_void, into: *mut c_uint) -> c_int {
    let script = script(device);
    let t = (now() / TICK).floor() * TICK;
    let answer = |state: &mut State| {
        let watts = match script.architecture {
            AMPERE => state.watts(t),
            _ => state.joules(t) - state.joules(t - 1.0),
        };
        if script.usage { Ok((watts * 1000.0).round() as c_uint) } else { Err(NOT_SUPPORTED) }
    };
    unsafe { give(device, into, answer) }
}

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

/// The call succeeds; each field has a status of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(device: *mut c_void, count: c_int, values: *mut FieldValue) -> c_int {
    let state = match alive(device) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let t = (now() / TICK).floor() * TICK;
    for value in unsafe { std::slice::from_raw_parts_mut(values, count as usize) } {
        let script = script(device);
        let known = match (value.field_id, value.scope_id) {
            (POWER_INSTANT, BOARD) if script.instant => Some(state.watts(t) * 1000.0),
            (POWER_AVERAGE, MEMORY) if script.memory => Some(state.watts(t) * 1000.0 * MEMORY_SHARE),
            (MEMORY_TEMPERATURE, BOARD) if script.memory => Some(f64::from(state.temperature) + MEMORY_HOTTER),
            _ => None,
        };
        value.status = if known.is_some() { SUCCESS } else { NOT_SUPPORTED };
        value.value_type = UNSIGNED_INT;
        value.value = garbage(known.unwrap_or_default().round() as u32);
    }
    SUCCESS
}

/// A 32-bit value in the union of 64 bits, whose upper half the driver leaves as it is.
fn garbage(value: u32) -> u64 {
    0xdead_beef_0000_0000 | u64::from(value)
}

/// The layout of `nvmlSample_t`.
#[repr(C)]
pub struct Sample {
    timestamp: c_ulonglong,
    value: u64,
}

/// Without room it says how many samples came after `since`; with room it fills that with the oldest of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSamples(
    device: *mut c_void,
    kind: c_uint,
    since: c_ulonglong,
    value_type: *mut c_uint,
    count: *mut c_uint,
    into: *mut Sample,
) -> c_int {
    let mut state = match alive(device) {
        Ok(state) => state,
        Err(code) => return code,
    };
    let spacing = match (kind, script(device).ring) {
        (POWER_SAMPLES, Ring::Works) => RING_SPACING,
        (POWER_SAMPLES, Ring::Coarse) => RING_SPACING * 5,
        (POWER_SAMPLES, Ring::Empty) => return NOT_FOUND,
        _ => return NOT_SUPPORTED,
    };
    let until = now().min(state.ring_stopped.unwrap_or(f64::INFINITY));
    let of = |t: u64| Sample {
        timestamp: stamp(t as f64 * 1e-6),
        value: garbage((state.watts(t as f64 * 1e-6) * 1000.0).round() as u32),
    };
    let samples: Vec<Sample> = ring_times(until, spacing).map(of).filter(|sample| sample.timestamp > since).collect();
    if samples.is_empty() {
        return NOT_FOUND;
    }
    unsafe { *value_type = UNSIGNED_INT };
    if into.is_null() {
        unsafe { *count = samples.len() as c_uint };
        return SUCCESS;
    }
    state.ring_calls += 1;
    let room = unsafe { *count } as usize;
    unsafe { *count = room.min(samples.len()) as c_uint };
    for (place, sample) in samples.into_iter().take(room).enumerate() {
        unsafe { into.add(place).write(sample) };
    }
    SUCCESS
}
