#include "kernels/internal/attention_rows_body.h"

namespace tidegate::kernels {

void AttentionRowsSse4(const Context& context, const AttentionRows& rows) {
  ForwardRows(context, rows);
}

void AttentionBackwardSse4(const Context& context, const AttentionBackwardArgs& args) {
  BackwardRows(context, args);
}

}  // namespace tidegate::kernels
