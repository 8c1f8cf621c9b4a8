//! Which GPUs are charged: those that are listed, or those that the engine runs on, by UUID.

use nvml_wrapper::Nvml;

use crate::error::{Context, Error, Result};
use crate::meter::options::EngineGpu;

/// The UUID of each GPU by index; empty for a GPU that may not be queried.
pub(super) fn uuids(nvml: &Nvml) -> Result<Vec<String>> {
    let count = nvml.device_count().context(|| "can't count the GPUs")?;
    let uuid = |index| nvml.device_by_index(index).and_then(|device| device.uuid());
    Ok((0..count).map(|index| uuid(index).unwrap_or_default()).collect())
}

/// Which GPUs to charge, of those with `uuids`.
///
/// The engine's own word for a device, its UUID, is taken before any numbering: NVML numbers GPUs by PCI bus, and CUDA
/// does so only with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
pub(super) fn choose(
    listed: Option<&[u32]>,
    visible: Option<&str>,
    engine: &[EngineGpu],
    uuids: &[String],
) -> Result<Vec<u32>> {
    let first = [EngineGpu::default()];
    let engine = if engine.is_empty() { &first } else { engine };
    let chosen = match (listed, by_uuid(engine, uuids), visible) {
        (Some(indices), ..) => indices.to_vec(),
        (None, _, Some(names)) if names.split(',').any(|name| name.trim().starts_with("MIG-")) => {
            visible_gpus(names, uuids)?
        }
        (None, Some(found), _) => found,
        (None, None, Some(names)) => {
            let visible = visible_gpus(names, uuids)?;
            engine.iter().map(|gpu| engines_gpu(&visible, gpu.ordinal)).collect::<Result<_>>()?
        }
        (None, None, None) => engine.iter().map(|gpu| gpu.ordinal as u32).collect(),
    };
    existing(chosen, uuids)
}

/// Which GPUs to charge for a command, of which it isn't known which ones it uses: those that are listed, else those
/// that it can see.
pub(super) fn visible(listed: Option<&[u32]>, visible: Option<&str>, uuids: &[String]) -> Result<Vec<u32>> {
    let chosen = match (listed, visible) {
        (Some(indices), _) => indices.to_vec(),
        (None, Some(names)) => visible_gpus(names, uuids)?,
        (None, None) => (0..uuids.len() as u32).collect(),
    };
    existing(chosen, uuids)
}

/// In order and each once.
fn existing(mut chosen: Vec<u32>, uuids: &[String]) -> Result<Vec<u32>> {
    if uuids.is_empty() {
        return Err(Error::new("there is no GPU"));
    }
    if let Some(missing) = chosen.iter().find(|&&index| index as usize >= uuids.len()) {
        return Err(Error::input(format!("there is no GPU {missing}; this machine has {}", uuids.len())));
    }
    if chosen.is_empty() {
        return Err(Error::input("no GPU is chosen: `gpu_indices` or `CUDA_VISIBLE_DEVICES` is empty"));
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The GPUs that the engine runs on, as far as they are known: none if it runs on the processor.
pub(super) fn used(visible: Option<&str>, engine: &[EngineGpu], uuids: &[String]) -> Vec<u32> {
    if engine.is_empty() {
        return Vec::new();
    }
    // if only a part of a GPU is visible, nothing but the list says which one; the engine's own process is on it then
    choose(None, visible, engine, uuids).unwrap_or_else(|_| (0..uuids.len() as u32).collect())
}

/// The engine's GPUs by the UUIDs that CUDA gives them, if it gives all of them one.
fn by_uuid(engine: &[EngineGpu], uuids: &[String]) -> Option<Vec<u32>> {
    let index = |gpu: &EngineGpu| {
        let wanted = gpu.uuid.as_ref()?;
        uuids.iter().position(|uuid| uuid.eq_ignore_ascii_case(wanted)).map(|index| index as u32)
    };
    engine.iter().map(index).collect()
}

/// The engine's GPU among the visible ones: an idle neighbour isn't charged.
fn engines_gpu(visible: &[u32], engine: usize) -> Result<u32> {
    visible.get(engine).copied().ok_or_else(|| {
        let message =
            format!("`CUDA_VISIBLE_DEVICES` makes {} GPUs visible, and `cuda:{engine}` isn't one", visible.len());
        Error::input(message).with_hint("choose another device, or list `gpu_indices`")
    })
}

/// `CUDA_VISIBLE_DEVICES` as CUDA reads it: everything from the first invalid entry on is ignored.
fn visible_gpus(names: &str, uuids: &[String]) -> Result<Vec<u32>> {
    let mut chosen = Vec::new();
    for name in names.split(',').map(str::trim) {
        if name.starts_with("MIG-") {
            return Err(Error::input(format!("`CUDA_VISIBLE_DEVICES` names `{name}`, a part of a GPU"))
                .with_hint("energy is known for whole GPUs only; list `gpu_indices` to charge the whole one"));
        }
        match gpu_by_name(name, uuids) {
            Some(index) => chosen.push(index),
            None => break,
        }
    }
    Ok(chosen)
}

fn gpu_by_name(name: &str, uuids: &[String]) -> Option<u32> {
    if !name.starts_with("GPU-") {
        return name.parse().ok().filter(|&index: &u32| (index as usize) < uuids.len());
    }
    let mut matching = (0..).zip(uuids).filter(|(_, uuid)| uuid.starts_with(name)).map(|(index, _)| index);
    // a beginning that fits two GPUs names none
    matching.next().filter(|_| matching.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(ordinals: &[usize]) -> Vec<EngineGpu> {
        ordinals.iter().map(|&ordinal| EngineGpu { ordinal, uuid: None }).collect()
    }

    #[test]
    fn the_engines_uuid_wins_over_every_numbering() {
        let engine = [EngineGpu { ordinal: 0, uuid: Some("gpu-CCCC-3".into()) }];
        assert_eq!(choose(None, None, &engine, &uuids()).unwrap(), [2]);
        assert_eq!(choose(None, Some("1,2"), &engine, &uuids()).unwrap(), [2]);
        let unknown = [EngineGpu { ordinal: 1, uuid: Some("GPU-other".into()) }];
        assert_eq!(choose(None, None, &unknown, &uuids()).unwrap(), [1], "what NVML doesn't know goes by number");
    }

    fn uuids() -> Vec<String> {
        ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"].map(String::from).to_vec()
    }

    #[test]
    fn a_command_is_charged_every_gpu_that_it_can_see() {
        let charged = |listed: Option<&[u32]>, names| super::visible(listed, names, &uuids()).unwrap();
        assert_eq!(charged(None, None), [0, 1, 2]);
        assert_eq!(charged(None, Some("2,0")), [0, 2]);
        assert_eq!(charged(None, Some("GPU-aabb")), [1]);
        assert_eq!(charged(Some(&[1]), Some("2,0")), [1]);
        assert!(super::visible(None, Some(""), &uuids()).is_err(), "none is visible");
        assert!(super::visible(None, Some("MIG-1"), &uuids()).is_err());
        assert!(super::visible(None, None, &[]).is_err());
    }

    /// What the engine's GPU is when it runs on the first of these visible ones.
    fn visible(names: &str) -> Result<Vec<u32>> {
        choose(None, Some(names), &gpus(&[0]), &uuids())
    }

    #[test]
    fn listed_gpus_win_over_the_environment_and_are_charged_once() {
        assert_eq!(choose(Some(&[2, 0, 2]), Some("1"), &gpus(&[0]), &uuids()).unwrap(), [0, 2]);
    }

    #[test]
    fn without_any_choice_only_the_engines_gpu_is_charged() {
        assert_eq!(choose(None, None, &[], &uuids()).unwrap(), [0]);
        assert_eq!(choose(None, None, &gpus(&[1]), &uuids()).unwrap(), [1]);
        assert_eq!(choose(None, Some("2,0,1"), &gpus(&[0]), &uuids()).unwrap(), [2], "idle neighbours aren't charged");
        assert_eq!(choose(None, Some("2,0,1"), &gpus(&[2]), &uuids()).unwrap(), [1]);
        assert_eq!(choose(None, Some("2,0,1"), &gpus(&[0, 1]), &uuids()).unwrap(), [0, 2], "a model on two GPUs");
        assert!(choose(None, Some("2"), &gpus(&[1]), &uuids()).is_err());
    }

    #[test]
    fn visible_devices_may_be_indices_or_uuids_or_their_beginnings() {
        assert_eq!(visible_gpus("2, 1", &uuids()).unwrap(), [2, 1]);
        assert_eq!(visible("GPU-aabb-2").unwrap(), [1]);
        assert_eq!(visible_gpus("GPU-cc,0", &uuids()).unwrap(), [2, 0]);
    }

    #[test]
    fn as_in_cuda_everything_from_the_first_invalid_entry_on_is_invisible() {
        assert_eq!(visible_gpus("1,-1,2", &uuids()).unwrap(), [1]);
        assert_eq!(visible_gpus("0,GPU-aa,2", &uuids()).unwrap(), [0], "an ambiguous beginning");
        assert!(visible("").is_err());
        assert!(visible("-1").is_err());
    }

    #[test]
    fn a_listed_gpu_is_used_only_where_the_engine_runs_on_it() {
        assert_eq!(used(None, &[], &uuids()), [0_u32; 0], "the engine runs on the processor");
        assert_eq!(used(Some("2,0"), &gpus(&[0]), &uuids()), [2]);
        assert_eq!(used(Some("MIG-1"), &gpus(&[0]), &uuids()), [0, 1, 2]);
    }

    #[test]
    fn a_part_of_a_gpu_is_refused_with_the_way_out() {
        assert!(visible("MIG-1234").unwrap_err().hint().unwrap().contains("gpu_indices"));
    }

    #[test]
    fn a_gpu_that_does_not_exist_is_named() {
        let error = choose(Some(&[7]), None, &gpus(&[0]), &uuids()).unwrap_err();
        assert_eq!(error.message(), "there is no GPU 7; this machine has 3");
        assert!(choose(Some(&[]), None, &gpus(&[0]), &uuids()).is_err());
        assert!(choose(None, None, &gpus(&[0]), &[]).is_err());
    }
}
