//! A loaded model, as the strategies run it: on the decoder's operations or on the GPU's own kernels.

use candle_core::Tensor;

use crate::engine::config::Config;
use crate::engine::decoder::{self, Decoder, Place};
#[cfg(feature = "cuda")]
use crate::engine::gpu;
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;

/// A loaded model.
pub(crate) struct Runner {
    pub(crate) config: Config,
    pub(crate) model: Model,
    /// Where logits come out.
    pub(crate) place: Place,
}

/// A model's weights and what runs them.
pub(crate) enum Model {
    /// candle's operations, or the kernels for the CPU.
    Decoder(Box<Decoder>),
    /// The kernels for GPUs.
    #[cfg(feature = "cuda")]
    Gpu(Box<gpu::Model>),
}

/// A left-padded batch under way.
pub(crate) enum Sequences {
    /// Of the decoder.
    Decoder(decoder::Sequences),
    /// Of the kernels for GPUs.
    #[cfg(feature = "cuda")]
    Gpu(gpu::Sequences),
}

impl Runner {
    /// An empty batch for rows of up to `capacity` columns; row r begins at column `starts[r]`.
    pub(crate) fn begin(&self, starts: Vec<usize>, capacity: usize) -> Result<Sequences> {
        Ok(match &self.model {
            Model::Decoder(decoder) => Sequences::Decoder(decoder.begin(starts, capacity)?),
            #[cfg(feature = "cuda")]
            Model::Gpu(model) => Sequences::Gpu(model.begin(starts, capacity)?),
        })
    }

    /// Runs new tokens `(b, t)` after those in the cache and gives what goes into the final norm: `(b · t, hidden)`.
    pub(crate) fn hidden(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        match (&self.model, sequences) {
            (Model::Decoder(decoder), Sequences::Decoder(sequences)) => decoder.hidden(ids, sequences),
            #[cfg(feature = "cuda")]
            (Model::Gpu(model), Sequences::Gpu(sequences)) => model.hidden(ids, sequences),
            #[cfg(feature = "cuda")]
            _ => Err(of_another_model()),
        }
    }

    /// Logits `(m, vocabulary)` for rows `(m, hidden)` of what [`Runner::hidden`] gives.
    pub(crate) fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        match &self.model {
            Model::Decoder(decoder) => decoder.logits(rows),
            #[cfg(feature = "cuda")]
            Model::Gpu(model) => model.logits(rows),
        }
    }

    /// Runs new tokens `(b, t)`: the logits `(b, vocabulary)` that follow the last of each row.
    pub(crate) fn next_logits(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let (Model::Gpu(model), Sequences::Gpu(sequences)) = (&self.model, &mut *sequences) {
            return model.next_logits(ids, sequences);
        }
        let (batch, tokens) = ids.dims2()?;
        let hidden = self.hidden(ids, sequences)?;
        if tokens == 1 {
            return self.logits(&hidden);
        }
        // the output layer runs at the last position only: a vocabulary for each token of a prompt would fill memory
        let width = hidden.dim(1)?;
        let last = hidden.reshape((batch, tokens, width))?.narrow(1, tokens - 1, 1)?;
        self.logits(&last.contiguous()?.reshape((batch, width))?)
    }

    /// Row r of the batch becomes what row `rows[r]` was; a row may go on several times or not at all.
    pub(crate) fn reorder(&self, rows: &[usize], sequences: &mut Sequences) -> Result<()> {
        match (&self.model, sequences) {
            (Model::Decoder(_), Sequences::Decoder(sequences)) => sequences.reorder(rows),
            #[cfg(feature = "cuda")]
            (Model::Gpu(model), Sequences::Gpu(sequences)) => model.reorder(rows, sequences),
            #[cfg(feature = "cuda")]
            _ => Err(of_another_model()),
        }
    }
}

#[cfg(feature = "cuda")]
fn of_another_model() -> Error {
    Error::new("a batch can't go on with another model")
}
