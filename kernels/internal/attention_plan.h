// Which tiles attention visits and in which order: a function of the shape alone, so that results
// do not depend on the number of threads.
#pragma once

#include "kernels/internal/attention_impl.h"

namespace tidegate::kernels {

// Queries and keys in blocks of 64. Arrays live in the workspace given to the maker.
struct AttentionPlan {
  int64_t query_blocks, key_blocks;
  const int32_t* first_key_block;   // [query_blocks], of the block's first row
  const int32_t* last_key_block;    // [query_blocks], inclusive
  const int32_t* heaviest_first;    // [query_blocks], the blocks by falling number of tiles
  const int32_t* last_query_block;  // [key_blocks], inclusive; the first is the key block itself
  // Backward: key blocks cut_at[i] … cut_at[i+1]-1 are piece i, of about equal numbers of tiles.
  int64_t pieces;
  int32_t cut_at[5];
};

AttentionPlan PlanAttention(Workspace& workspace, const AttentionRows& rows);

}  // namespace tidegate::kernels
