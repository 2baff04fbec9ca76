// The gradients of A and B from v = dy B, for whoever has made v.
#pragma once

#include "kernels/lora.h"

namespace tidegate::kernels {

// da += vᵀ x, db_t += uᵀ dy.
void AddLoraGradients(const Context& context, DType dtype, const LoraBackwardArgs& args,
                      const void* v);

}  // namespace tidegate::kernels
