"""Records what NVML says about a GPU's energy from a process of its own, and integrates it over windows.

The scripts beside this file (`step_rhythm.py`, `weight_data.py`, `power_scopes.py`, `edge_lag.py`) use it; it isn't
run by itself. It needs Python 3.10, numpy and nvidia-ml-py, and changes no setting of the card. All times are seconds
of the monotonic clock, which processes share.

Sources and how they are read:

- the energy counter renews each 100 ms. A call that begins shortly before a tick returns as the tick comes (seen on an
  H100: calls took 6 to 16 ms, their ends lay within 0.3 ms of a regular grid, their beginnings didn't), so it is read
  from 85 ms after a tick until the next one has come, and each tick is known to some 0.3 ms;
- `POWER_INSTANT` (field 186) each 8 ms or so; changes are kept;
- the driver's ring of power samples (one each 20 ms, 2.4 s kept) once a second, its wall-clock stamps brought to the
  monotonic clock;
- temperatures, clocks and the reasons for lower clocks four times a second.
"""

import multiprocessing
import random
import time

import numpy as np

POWER_AVERAGE, POWER_INSTANT, MEMORY_TEMPERATURE = 185, 186, 82
TICK = 0.1
"""Renewal period of the energy counter, in seconds."""
TICK_COLUMNS = ("previous_end", "begin", "end", "joules")
CONDITION_COLUMNS = ("t", "core_c", "memory_c", "sm_mhz", "memory_mhz", "reasons")


def now():
    """Seconds of the monotonic clock."""
    return time.monotonic_ns() * 1e-9


def field_number(value):
    """The number in an NVML field value, or NaN if the driver doesn't give it."""
    if value.nvmlReturn != 0:
        return float("nan")
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    return float(getattr(value.value, members[value.valueType]))


class _Reader:
    """The recording process's state: one device and the lists that it fills."""

    def __init__(self, index):
        import pynvml

        self.nvml = pynvml
        pynvml.nvmlInit()
        self.device = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.ticks, self.ring, self.instant, self.conditions = [], [], [], []
        self.last_joules = self.last_power = None
        self.last_end = now()
        self.last_tick = 0.0
        self.last_stamp = 0
        self.next_second = self.next_quarter = 0.0

    def read_counter(self):
        begin = now()
        joules = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.device) / 1000
        end = now()
        if joules != self.last_joules:
            self.ticks.append((self.last_end, begin, end, joules))
            self.last_joules, self.last_tick = joules, end
        self.last_end = end

    def read_instant(self):
        begin = now()
        milliwatts = field_number(self.nvml.nvmlDeviceGetFieldValues(self.device, [POWER_INSTANT])[0])
        if milliwatts != self.last_power:
            self.instant.append((begin, now(), milliwatts / 1000))
            self.last_power = milliwatts

    def read_ring(self):
        shift = time.time_ns() - time.monotonic_ns()
        try:
            _, samples = self.nvml.nvmlDeviceGetSamples(
                self.device, self.nvml.NVML_TOTAL_POWER_SAMPLES, self.last_stamp
            )
        except self.nvml.NVMLError:
            return
        for sample in samples:
            if sample.timeStamp > self.last_stamp:
                self.ring.append(((sample.timeStamp * 1000 - shift) * 1e-9, sample.sampleValue.uiVal / 1000))
                self.last_stamp = sample.timeStamp

    def read_conditions(self):
        nvml, device = self.nvml, self.device
        memory = field_number(nvml.nvmlDeviceGetFieldValues(device, [MEMORY_TEMPERATURE])[0])
        self.conditions.append(
            (
                now(),
                nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
                memory,
                nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
                nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
                nvml.nvmlDeviceGetCurrentClocksEventReasons(device),
            )
        )

    def round(self):
        """One round of readings, each source when its time has come."""
        if now() >= self.last_tick + 0.085:
            self.read_counter()
        else:
            time.sleep(random.uniform(0.003, 0.008))
        self.read_instant()
        if now() >= self.next_quarter:
            self.next_quarter = now() + 0.25
            self.read_conditions()
        if now() >= self.next_second:
            self.next_second = now() + 1.0
            self.read_ring()

    def arrays(self):
        self.read_ring()
        return {
            "ticks": np.array(self.ticks[1:], dtype=float).reshape(-1, 4),
            "ring": np.array(self.ring, dtype=float).reshape(-1, 2),
            "instant": np.array(self.instant, dtype=float).reshape(-1, 3),
            "conditions": np.array(self.conditions, dtype=float).reshape(-1, 6),
        }


def _record(index, pipe):
    """The recording process: reads until a message comes; answers "dump" with all readings, anything else ends it."""
    reader = _Reader(index)
    pipe.send("ready")
    while True:
        reader.round()
        if pipe.poll():
            if pipe.recv() != "dump":
                break
            pipe.send(reader.arrays())
    pipe.send(reader.arrays())


class Recorder:
    """Records from construction until `stop`; `dump` gives a copy of what there is so far."""

    def __init__(self, index=0):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_record, args=(index, other), daemon=True)
        self.process.start()
        if not self.pipe.poll(60):
            raise RuntimeError("the recording process did not start")
        self.pipe.recv()

    def dump(self):
        self.pipe.send("dump")
        return self.pipe.recv()

    def stop(self):
        self.pipe.send("stop")
        arrays = self.pipe.recv()
        self.process.join(10)
        return arrays


def tick_times(ticks):
    """When each tick came: the end of the reading that showed it, which waited for it."""
    return ticks[:, 2]


def counter_powers(trace, start, end):
    """Mean watts between the first and the last tick within a window, and the number of whole ticks.

    Two estimates: by the two end ticks, and by a straight line through all of them, which errs less under a steady load
    since each tick is known to only some milliseconds.
    """
    times = tick_times(trace["ticks"])
    inside = (times >= start) & (times <= end)
    t, joules = times[inside], trace["ticks"][inside, 3]
    if len(t) < 3:
        return float("nan"), float("nan"), 0
    ends = (joules[-1] - joules[0]) / (t[-1] - t[0])
    return ends, np.polyfit(t - t.mean(), joules - joules.mean(), 1)[0], len(t) - 1


def tick_energies(trace, start, end):
    """Times and joules of the ticks whose whole span lies within a window."""
    times = tick_times(trace["ticks"])
    inside = np.flatnonzero((times[:-1] >= start) & (times[1:] <= end))
    return times[inside + 1] - TICK / 2, np.diff(trace["ticks"][:, 3])[inside]


def ring_power(trace, start, end):
    """Mean watts of the ring's samples over a window: trapezoid, interpolated at both edges."""
    ring = trace["ring"]
    if len(ring) < 3 or ring[0, 0] > start or ring[-1, 0] < end:
        return float("nan")
    inside = (ring[:, 0] > start) & (ring[:, 0] < end)
    t = np.concatenate([[start], ring[inside, 0], [end]])
    watts = np.interp(t, ring[:, 0], ring[:, 1])
    return float(np.trapezoid(watts, t) / (end - start))


def instant_power(trace, start, end):
    """Mean watts of field 186 over a window, each value held until the next."""
    instant = trace["instant"]
    if len(instant) < 3:
        return float("nan")
    first = max(int(np.searchsorted(instant[:, 1], start)) - 1, 0)
    last = int(np.searchsorted(instant[:, 1], end))
    t = np.clip(np.append(instant[first:last, 1], end), start, end)
    return float((np.diff(t) * instant[first:last, 2]).sum() / (end - start))


def conditions_over(trace, start, end):
    """Mean core and memory temperature, mean SM and memory clock, and all reasons for lower clocks in a window."""
    rows = trace["conditions"]
    rows = rows[(rows[:, 0] >= start) & (rows[:, 0] <= end)]
    if not len(rows):
        return [float("nan")] * 4 + [0]
    return [*rows[:, 1:5].mean(axis=0), int(np.bitwise_or.reduce(rows[:, 5].astype(np.int64)))]


def ring_grid(trace):
    """Period and offset (seconds) of the grid on which the ring's samples lie, most of them within 0.1 ms."""
    t = trace["ring"][:, 0]
    periods = np.arange(0.019990, 0.020010, 5e-8)
    period = max(periods, key=lambda p: abs(np.exp(2j * np.pi * t / p).mean()))
    return period, np.angle(np.exp(2j * np.pi * t / period).mean()) / (2 * np.pi) * period


def amplitude_at(times, values, frequency):
    """Amplitude of the sinusoid of a frequency (Hz) that fits values best, and its standard error."""
    angle = 2 * np.pi * frequency * (times - times[0])
    design = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=1)
    solution, *_ = np.linalg.lstsq(design, values, rcond=None)
    rest = values - design @ solution
    error = np.sqrt((rest**2).sum() / max(len(values) - 3, 1) * 2 / len(values))
    return float(np.hypot(solution[1], solution[2])), float(error)


def limit_and_name(index=0):
    """The card's name, driver, and power limit in watts."""
    import pynvml

    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    limit = pynvml.nvmlDeviceGetPowerManagementLimit(device) / 1000
    return {"name": pynvml.nvmlDeviceGetName(device), "driver": pynvml.nvmlSystemGetDriverVersion(), "limit_w": limit}
