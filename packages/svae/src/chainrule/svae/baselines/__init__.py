"""What films of pixels are predicted by without a structured model: what such a model has to beat.

copy_last(seen, horizon)                 the last frame that was seen, over and over
mean_frame(frames)                       the mean over films and time
Autoregression.fit(frames, lag)          ridge regression of a frame on the `lag` before it
LinearGaussian.fit(frames, latents)      a linear system that draws its pixels linearly, by maximum likelihood
FrameVAE.fit(key, frames, latents)       an autoencoder of single frames; regression on what it makes of them

The last three have `forecast(seen, horizon)` -> frames.
"""

from chainrule.svae.baselines.linear_gaussian import LinearGaussian
from chainrule.svae.baselines.regression import Autoregression, copy_last, mean_frame
from chainrule.svae.baselines.vae import FrameVAE, StandardNormal

__all__ = ["Autoregression", "FrameVAE", "LinearGaussian", "StandardNormal", "copy_last", "mean_frame"]
