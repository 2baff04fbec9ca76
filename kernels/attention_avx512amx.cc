#include "kernels/internal/amx_products.h"
#include "kernels/internal/attention_backward_tiles.h"
#include "kernels/internal/attention_forward_tiles.h"

namespace tidegate::kernels {

void AttentionRowsBF16Amx(const Context& context, const AttentionRows& rows) {
  ForwardTiles<TilesBF16, AmxProducts>(context, rows).Run();
}

void AttentionBackwardBF16Amx(const Context& context, const AttentionBackwardArgs& args) {
  BackwardTiles<TilesBF16, AmxProducts>(context, args).Run();
}

}  // namespace tidegate::kernels
