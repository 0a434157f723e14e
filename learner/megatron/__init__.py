"""The model and its training on megatron-core: the only package that imports megatron.

Importing it makes megatron usable on this machine (learner.megatron.patches.cpu), so every module below may import megatron
at its top. Floors, each of which imports only those below it: checkpointing/ (saving and loading), training/ (a step), model/
(what is built, and our own arithmetic), parallel (the ranks), patches/ (changes to megatron-core and torch).
"""

import warnings

from learner.megatron.patches.cpu import install

# megatron announces every optional accelerator (TransformerEngine, apex, fused kernels) that is not installed, and calls
# collectives by names that torch has begun to deprecate: nothing here that a reader of the log could act upon.
warnings.filterwarnings("ignore", module=r"megatron\.")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")
install()
