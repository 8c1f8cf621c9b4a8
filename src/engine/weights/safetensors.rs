//! Safetensors files: finding them in a folder, and loading tensors in the data type that the model runs in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};

use crate::error::{Context, Error, Result};
use crate::json::read_object;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The safetensors files of a model, mapped into memory, and what is in them.
pub(crate) struct Safetensors {
    files: Vec<File>,
    tensors: BTreeMap<String, Stored>,
}

struct File {
    path: PathBuf,
    mapped: MmapedSafetensors,
}

/// Where a tensor lies and what it is.
struct Stored {
    file: usize,
    shape: Vec<usize>,
    dtype: DType,
    bytes: u64,
}

impl Safetensors {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// No such file (with what to do about other formats), or a file that is damaged.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let mut files = Self { files: Vec::new(), tensors: BTreeMap::new() };
        if folder.join(SINGLE).is_file() {
            files.add_file(folder.join(SINGLE))?;
        } else if folder.join(INDEX).is_file() {
            files.add_shards(folder)?;
        } else {
            return Err(no_weights(folder));
        }
        Ok(files)
    }

    /// The files, in the order of reading.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Bytes of all tensors on disk.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.bytes).sum()
    }

    /// Names and shapes of all tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape.as_slice()))
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// There is none of this name; the message names the files.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.find(name)?.shape)
    }

    /// The data type that most of the weights are stored in.
    pub(crate) fn stored_dtype(&self) -> DType {
        let bytes_in = |dtype| -> u64 {
            let matching = self.tensors.values().filter(|tensor| tensor.dtype == dtype);
            matching.map(|tensor| tensor.bytes).sum()
        };
        [DType::F32, DType::BF16, DType::F16].into_iter().max_by_key(|dtype| bytes_in(*dtype)).unwrap_or(DType::F32)
    }

    /// Loads a tensor and casts it.
    pub(crate) fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.find(name)?;
        let tensor = self.files[stored.file].mapped.load(name, device).and_then(|tensor| tensor.to_dtype(dtype));
        tensor.map_err(|cause| Error::from(cause).at(self.place_of(name, stored)))
    }

    fn add_shards(&mut self, folder: &Path) -> Result<()> {
        let index = folder.join(INDEX);
        let json = read_object(&index)?;
        let map = json.get("weight_map").and_then(|map| map.as_object());
        let map = map.ok_or_else(|| Error::input("`weight_map`: is missing").at(index.display()))?;
        let named: BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
        for shard in named {
            let path = folder.join(shard);
            if Path::new(shard).components().count() != 1 || !path.is_file() {
                return Err(Error::input(format!("`weight_map`: `{shard}` isn't in the folder")).at(index.display()));
            }
            self.add_file(path)?;
        }
        match map.keys().find(|name| !self.tensors.contains_key(*name) && !Self::is_recomputed(name)) {
            None => Ok(()),
            Some(name) => {
                let message = format!("`weight_map`: tensor `{name}` isn't in the shard that it names");
                Err(Error::input(message).at(index.display()))
            }
        }
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        let mapped = map_safetensors(&path)?;
        for (name, view) in mapped.tensors() {
            // masks are stored as booleans or bytes
            if Self::is_recomputed(&name) {
                continue;
            }
            let place = || format!("{}: tensor `{name}`", path.display());
            let dtype = DType::try_from(view.dtype()).map_err(|_| unsupported_dtype(&format!("{:?}", view.dtype())));
            let dtype = dtype.and_then(supported_dtype).map_err(|error| error.at(place()))?;
            let bytes = view.data().len() as u64;
            let stored = Stored { file: self.files.len(), shape: view.shape().to_vec(), dtype, bytes };
            if self.tensors.insert(name.clone(), stored).is_some() {
                return Err(Error::input("is in another file too").at(place()));
            }
        }
        self.files.push(File { path, mapped });
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| {
            let places = self.paths().map(|path| path.display().to_string()).collect::<Vec<_>>();
            Error::input(format!("tensor `{name}` is missing")).at(places.join(", "))
        })
    }

    /// The bytes of a tensor as they lie in the file.
    pub(crate) fn data(&self, name: &str) -> Result<&[u8]> {
        let stored = self.find(name)?;
        Ok(self.files[stored.file].mapped.get(name)?.data())
    }

    fn place_of(&self, name: &str, stored: &Stored) -> String {
        format!("{}: tensor `{name}`", self.files[stored.file].path.display())
    }

    /// Whether both tensors are there and hold the same bytes.
    ///
    /// # Errors
    /// A tensor can't be read.
    pub(crate) fn same_data(&self, name: &str, other: &str) -> Result<bool> {
        Ok(self.has(name) && self.has(other) && self.data(name)? == self.data(other)?)
    }

    /// Whether a name is that of a buffer that older versions of transformers stored and that follows from the config:
    /// it isn't read.
    fn is_recomputed(name: &str) -> bool {
        const ENDINGS: [&str; 6] = [
            ".rotary_emb.inv_freq",
            ".attn.bias",
            ".attn.masked_bias",
            ".attention.bias",
            ".attention.masked_bias",
            ".self_attention.masked_bias",
        ];
        ENDINGS.iter().any(|ending| name.ends_with(ending))
    }

    /// An error about a tensor, with its file.
    pub(crate) fn error(&self, name: &str, message: impl Into<String>) -> Error {
        match self.find(name) {
            Ok(stored) => Error::input(message).at(self.place_of(name, stored)),
            Err(missing) => missing,
        }
    }
}

/// Maps a file into memory and reads its header.
///
/// # Errors
/// The file can't be read, or isn't a complete safetensors file.
pub(crate) fn map_safetensors(path: &Path) -> Result<MmapedSafetensors> {
    // SAFETY: the mapping is sound as long as nobody truncates the file while the model is loaded, which holds for any
    // program that maps model files.
    let mapped = unsafe { MmapedSafetensors::new(path) };
    mapped.map_err(|cause| {
        let message = Error::from(cause).message().to_owned();
        Error::input(format!("isn't a whole safetensors file: {message}"))
            .at(path.display())
            .with_hint("download or copy the file again")
    })
}

fn supported_dtype(dtype: DType) -> Result<DType> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(dtype),
        other => Err(unsupported_dtype(other.as_str())),
    }
}

fn unsupported_dtype(name: &str) -> Error {
    Error::input(format!("is stored as `{name}`; supported are `f32`, `f16` and `bf16`"))
}

fn no_weights(folder: &Path) -> Error {
    let names: Vec<String> = match fs::read_dir(folder).context(|| format!("can't read `{}`", folder.display())) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) => return error.with_kind(crate::error::Kind::Input),
    };
    let has = |endings: &[&str]| names.iter().any(|name| endings.iter().any(|ending| name.ends_with(ending)));
    let error = Error::input(format!("has no `{SINGLE}` and no `{INDEX}`")).at(folder.display());
    if has(&[".bin", ".pt", ".pth", ".ckpt"]) {
        error.with_hint(
            "pickled PyTorch weights can run code while they are read and aren't supported; convert them: \
             `AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)` in transformers writes safetensors",
        )
    } else if has(&[".gguf"]) {
        error.with_hint("name the `.gguf` file itself as the source")
    } else {
        error.with_hint("name a folder as `save_pretrained` writes it")
    }
}
