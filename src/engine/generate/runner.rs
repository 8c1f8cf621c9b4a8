//! A model that is loaded into the decoder, as the strategies run it.

use candle_core::Tensor;

use crate::engine::config::Config;
use crate::engine::decoder::{Decoder, Place, Sequences};
use crate::error::Result;

/// A loaded model.
pub(crate) struct Runner {
    pub(crate) config: Config,
    pub(crate) decoder: Decoder,
    /// Where logits come out.
    pub(crate) place: Place,
}

impl Runner {
    /// Runs new tokens `(b, t)`: the logits `(b, vocabulary)` that follow the last of each row.
    pub(crate) fn next_logits(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let hidden = self.decoder.hidden(ids, sequences)?;
        if tokens == 1 {
            return self.decoder.logits(&hidden);
        }
        // the output layer runs at the last position only: a vocabulary for each token of a prompt would fill memory
        let width = hidden.dim(1)?;
        let last = hidden.reshape((batch, tokens, width))?.narrow(1, tokens - 1, 1)?;
        self.decoder.logits(&last.contiguous()?.reshape((batch, width))?)
    }
}
