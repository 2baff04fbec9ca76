// A LoRA adapter as llama.cpp takes it (--lora FILE.gguf): general.type "adapter", lora_a and
// lora_b beside each base tensor's name, F32. Rows of q's and k's B lie in the order that
// llama.cpp's converter gives the rows of q and k themselves (the llama architecture alone).
// Thread-safe: a pure function.
#pragma once

#include "base/bytes.h"
#include "model/adapter.h"

namespace tidegate::model {

// llama.cpp scales by alpha / r, with the r of each module and one alpha: adapter.lora.alpha is
// what makes that our scale, rsLoRA's too. Where modules have other scales (rank and alpha
// patterns), the quotient is in their B.
Bytes EncodeGgufAdapter(const ModelConfig& base, const Adapter& adapter);

}  // namespace tidegate::model
