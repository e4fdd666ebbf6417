"""Whole functions emitted as one piece of native code on CPU, where XLA would start every operation apart."""

from probinf.native.form import native_form
from probinf.native.function import as_native, may_be_native, primitives_of, pruned
from probinf.native.loops import in_one_piece

__all__ = ["as_native", "in_one_piece", "may_be_native", "native_form", "primitives_of", "pruned"]
