//! The rotary position embedding as `config.json` describes it, in the spellings of transformers 4 (`rope_theta` next
//! to `rope_scaling`) and 5 (`rope_parameters` with everything inside).

use crate::error::Result;
use crate::json::Fields;

/// Rotary position embedding (Su et al. 2021).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// Base of the frequencies.
    pub(crate) theta: f64,
    /// How many dimensions of a head are rotated, the first ones.
    pub(crate) dims: usize,
    /// Which dimensions form a pair.
    pub(crate) style: RopeStyle,
    /// How the frequencies are stretched for long contexts.
    pub(crate) scaling: RopeScaling,
}

/// Which dimensions of a head form a pair that is rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RopeStyle {
    /// i and i + d/2, as in GPT-NeoX.
    Halves,
    /// 2 i and 2 i + 1, as in GPT-J.
    Neighbours,
}

/// How the frequencies of the rotary embedding are stretched.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by one factor.
    Linear { factor: f64 },
    /// Divided by a factor each, as GGUF files store Llama 3's scaling.
    Divisors(Vec<f32>),
    /// The base grows with the longest sequence of the batch once that is past the original length ("NTK-aware").
    Dynamic {
        /// How fast it grows.
        factor: f64,
        /// Context length of the pretraining.
        original_positions: f64,
    },
    /// YaRN (Peng et al. 2023).
    Yarn(Yarn),
    /// Llama 3.1: long wavelengths divided by the factor, short ones kept, with a ramp between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the pretraining.
        original_positions: f64,
    },
    /// LongRoPE (Ding et al. 2024): one divisor for each pair, of which there are two sets.
    Long {
        /// Divisors up to the original length.
        short: Vec<f32>,
        /// Divisors beyond it, for the whole sequence.
        long: Vec<f32>,
        /// Context length of the pretraining.
        original_positions: usize,
        /// Cosines and sines are multiplied by this.
        attention_factor: f64,
    },
}

/// YaRN (Peng et al. 2023, arXiv:2309.00071): pairs that turn often within the original length are kept, pairs that
/// turn seldom are divided by the factor, with a ramp between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Yarn {
    /// The divisor of long wavelengths.
    pub(crate) factor: f64,
    /// Pairs that turn at least this often within the original length are kept.
    pub(crate) beta_fast: f64,
    /// Pairs that turn at most this often are divided.
    pub(crate) beta_slow: f64,
    /// Context length of the pretraining.
    pub(crate) original_positions: f64,
    /// Cosines and sines are multiplied by this.
    pub(crate) attention_factor: f64,
    /// The ends of the ramp are rounded to whole dimensions.
    pub(crate) truncate: bool,
}

impl Rope {
    /// A rotation of whole heads without scaling.
    pub(crate) fn plain(theta: f64, head_dim: usize) -> Self {
        Self { theta, dims: head_dim, style: RopeStyle::Halves, scaling: RopeScaling::Default }
    }

    /// Whether sequences may grow past `max_position_embeddings`: the base grows with them.
    pub(crate) fn is_open_ended(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. })
    }
}

/// Values for what `config.json` leaves out, and what the shape of the model adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeDefaults {
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// Longest sequence.
    pub(crate) max_positions: usize,
    /// Base of the frequencies.
    pub(crate) theta: f64,
    /// Share of a head's dimensions that is rotated.
    pub(crate) share: f64,
    /// Which dimensions form a pair.
    pub(crate) style: RopeStyle,
}

/// The object that says how the rotary embedding is stretched, in either spelling.
///
/// # Errors
/// Something else is there in its place.
pub(crate) fn parameters<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>> {
    match fields.object("rope_scaling")? {
        Some(scaling) => Ok(Some(scaling)),
        None => fields.object("rope_parameters"),
    }
}

/// Reads the one rotary embedding of a model.
///
/// # Errors
/// A type that isn't supported, or a parameter that is missing or wrong.
pub(crate) fn read(fields: &Fields, defaults: RopeDefaults) -> Result<Rope> {
    let parameters = parameters(fields)?;
    rope(fields, parameters.as_ref(), defaults)
}

/// Reads a rotary embedding from its parameters; `fields`, the object around them, has what they leave out.
///
/// # Errors
/// As for [`read`].
pub(crate) fn rope(fields: &Fields, parameters: Option<&Fields>, defaults: RopeDefaults) -> Result<Rope> {
    let inside = |name: &str| match parameters {
        Some(parameters) => parameters.positive(name),
        None => Ok(None),
    };
    // GPT-NeoX uses other names
    let either = |name: &str, old: &str| -> Result<Option<f64>> {
        if let Some(value) = inside(name)? {
            return Ok(Some(value));
        }
        match fields.positive(name)? {
            Some(value) => Ok(Some(value)),
            None => fields.positive(old),
        }
    };
    let theta = either("rope_theta", "rotary_emb_base")?.unwrap_or(defaults.theta);
    let share = either("partial_rotary_factor", "rotary_pct")?.unwrap_or(defaults.share);
    if share > 1.0 {
        return Err(fields.error("partial_rotary_factor", format!("{share} is more than the whole head")));
    }
    let dims = (defaults.head_dim as f64 * share) as usize;
    let scaling = match parameters {
        Some(parameters) => scaling(fields, parameters, dims, defaults.max_positions)?,
        None => RopeScaling::Default,
    };
    Ok(Rope { theta, dims, style: defaults.style, scaling })
}

fn scaling(fields: &Fields, parameters: &Fields, dims: usize, max_positions: usize) -> Result<RopeScaling> {
    let kind = match parameters.text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.text("type")?,
    };
    // a value next to the parameters wins, as in transformers
    let original = || -> Result<f64> {
        let beside = fields.positive("original_max_position_embeddings")?;
        let inside = parameters.positive("original_max_position_embeddings")?;
        Ok(beside.or(inside).unwrap_or(max_positions as f64))
    };
    match kind {
        None if parameters.get("factor").is_some() => Err(parameters.error("rope_type", "is missing next to `factor`")),
        None | Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: parameters.required_positive("factor")? }),
        Some("dynamic") => Ok(RopeScaling::Dynamic {
            factor: parameters.required_positive("factor")?,
            original_positions: max_positions as f64,
        }),
        Some("yarn") => Ok(RopeScaling::Yarn(Yarn::read(parameters, max_positions as f64, original()?)?)),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: parameters.required_positive("factor")?,
            low_freq_factor: parameters.required_positive("low_freq_factor")?,
            high_freq_factor: parameters.required_positive("high_freq_factor")?,
            original_positions: original()?,
        }),
        Some("longrope" | "su") => long(parameters, dims, max_positions as f64, original()?),
        Some(other) => {
            let supported = "`default`, `linear`, `dynamic`, `yarn`, `llama3` and `longrope`";
            Err(parameters.error("rope_type", format!("`{other}` isn't supported; supported are {supported}")))
        }
    }
}

impl Yarn {
    /// Parameters as `_compute_yarn_parameters` of transformers reads them.
    ///
    /// # Errors
    /// A parameter that isn't a number it could be.
    pub(crate) fn read(parameters: &Fields, max_positions: f64, original_positions: f64) -> Result<Self> {
        let factor = parameters.positive("factor")?.unwrap_or(max_positions / original_positions);
        let attention_factor = match parameters.positive("attention_factor")? {
            Some(factor) => factor,
            None => match (parameters.not_negative("mscale")?, parameters.not_negative("mscale_all_dim")?) {
                (Some(some), Some(all)) if some != 0.0 && all != 0.0 => {
                    Self::magnitude(factor, some) / Self::magnitude(factor, all)
                }
                _ => Self::magnitude(factor, 1.0),
            },
        };
        Ok(Self {
            factor,
            beta_fast: parameters.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: parameters.positive("beta_slow")?.unwrap_or(1.0),
            original_positions,
            attention_factor,
            truncate: parameters.flag("truncate")?.unwrap_or(true),
        })
    }

    /// How much larger queries and keys get for a longer context, which keeps the entropy of attention: `get_mscale` of
    /// transformers.
    pub(crate) fn magnitude(factor: f64, mscale: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }
}

/// Parameters as `_compute_longrope_parameters` of transformers reads them.
fn long(parameters: &Fields, dims: usize, max_positions: f64, original_positions: f64) -> Result<RopeScaling> {
    let divisors = |name: &str| -> Result<Vec<f32>> {
        let list = parameters.positive_list(name)?.ok_or_else(|| parameters.error(name, "is missing"))?;
        match list.len() == dims / 2 {
            true => Ok(list.into_iter().map(|divisor| divisor as f32).collect()),
            false => Err(parameters.error(name, format!("has {} entries, {} pairs are rotated", list.len(), dims / 2))),
        }
    };
    let factor = parameters.positive("factor")?.unwrap_or(max_positions / original_positions);
    let attention_factor = match parameters.positive("attention_factor")? {
        Some(factor) => factor,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original_positions.ln()).sqrt(),
    };
    Ok(RopeScaling::Long {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        original_positions: original_positions as usize,
        attention_factor,
    })
}
