#include "kernels/internal/attention_plan.h"

#include <algorithm>
#include <numeric>

namespace tidegate::kernels {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kMaxPieces = 4;
constexpr int64_t kTilesAPiece = 512;

int64_t BlocksOf(int64_t rows) { return (rows + kBlock - 1) / kBlock; }

// Key blocks into pieces: at least two (so that 9 heads keep 2 threads busy), more for long inputs.
void CutPieces(const int32_t* last_query_block, AttentionPlan* plan) {
  int64_t tiles = 0;
  for (int64_t b = 0; b < plan->key_blocks; ++b) tiles += last_query_block[b] - b + 1;
  plan->pieces = std::clamp<int64_t>(tiles / kTilesAPiece, 2, kMaxPieces);
  plan->pieces = std::min(plan->pieces, plan->key_blocks);
  plan->cut_at[0] = 0;
  int64_t block = 0, seen = 0;
  for (int64_t piece = 1; piece < plan->pieces; ++piece) {
    while (block < plan->key_blocks && seen * plan->pieces < tiles * piece) {
      seen += last_query_block[block] - block + 1;
      ++block;
    }
    plan->cut_at[piece] = static_cast<int32_t>(block);
  }
  plan->cut_at[plan->pieces] = static_cast<int32_t>(plan->key_blocks);
}

}  // namespace

AttentionPlan PlanAttention(Workspace& workspace, const AttentionRows& rows) {
  AttentionPlan plan = {};
  plan.query_blocks = BlocksOf(rows.m);
  plan.key_blocks = BlocksOf(rows.past + rows.m);
  int32_t* first = workspace.Array<int32_t>(static_cast<size_t>(plan.query_blocks));
  int32_t* last = workspace.Array<int32_t>(static_cast<size_t>(plan.query_blocks));
  int32_t* order = workspace.Array<int32_t>(static_cast<size_t>(plan.query_blocks));
  int32_t* last_query = workspace.Array<int32_t>(static_cast<size_t>(plan.key_blocks));
  std::fill(last_query, last_query + plan.key_blocks, 0);
  for (int64_t b = 0; b < plan.query_blocks; ++b) {
    const int64_t last_row = std::min(rows.m, (b + 1) * kBlock) - 1;
    first[b] =
        rows.segment_start ? static_cast<int32_t>(rows.segment_start[b * kBlock] / kBlock) : 0;
    last[b] = static_cast<int32_t>((rows.past + last_row) / kBlock);
    // first is non-decreasing, so the last writer is the last visitor
    for (int32_t k = first[b]; k <= last[b]; ++k) last_query[k] = static_cast<int32_t>(b);
  }
  std::iota(order, order + plan.query_blocks, 0);
  std::stable_sort(order, order + plan.query_blocks, [first, last](int32_t a, int32_t b) {
    return last[a] - first[a] > last[b] - first[b];
  });
  plan.first_key_block = first;
  plan.last_key_block = last;
  plan.heaviest_first = order;
  plan.last_query_block = last_query;
  CutPieces(last_query, &plan);
  return plan;
}

}  // namespace tidegate::kernels
