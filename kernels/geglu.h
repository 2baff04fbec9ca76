// GeGLU: act = gelu(gate) · up, gelu in its tanh form (transformers' gelu_pytorch_tanh):
// gelu(x) = x · sigmoid(2·√(2/π)·(x + 0.044715·x³)).
#pragma once

#include "kernels/swiglu.h"

namespace tidegate::kernels {

// As SwiGLU's: shapes, aliasing and the optional `act` of the way back are the same.
struct GegluForwardArgs : SwigluForwardArgs {};
struct GegluBackwardArgs : SwigluBackwardArgs {};

}  // namespace tidegate::kernels
