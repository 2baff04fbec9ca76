#!/usr/bin/env bash
# From a folder of text to a base: a tokenizer of its own, token shards, a model trained from
# scratch on RANKS ranks, and a first word from it.
#
#   examples/pretrain/pretrain.sh TEXT_FOLDER OUT [RANKS] [more options of tidegate-pretrain]
#
# TEXT_FOLDER holds .txt or .jsonl files. TIDEGATE_BIN: where the programs are, else PATH. What is
# there already is not made again; a run that was ended goes on.
set -euo pipefail
text=${1:?usage: pretrain.sh TEXT_FOLDER OUT [RANKS] [options]}
out=${2:?usage: pretrain.sh TEXT_FOLDER OUT [RANKS] [options]}
ranks=${3:-2}
shift $(($# < 3 ? $# : 3))
here=$(cd "$(dirname "$0")" && pwd)
[ -z "${TIDEGATE_BIN:-}" ] || export PATH=$TIDEGATE_BIN:$PATH
vocabulary=$(sed -n 's/.*"vocab_size": \([0-9]*\).*/\1/p' "${CONFIG:-$here/config.json}")

[ -f "$out/tokenizer/tokenizer.json" ] ||
  tidegate tokenizer train "$text" --out "$out/tokenizer" --vocab-size "$vocabulary"
[ -f "$out/tokens/index.json" ] ||
  tidegate tokenizer encode "$text" --tokenizer "$out/tokenizer" --out "$out/tokens"
tidegate-pretrain --model_config "${CONFIG:-$here/config.json}" --tokenizer "$out/tokenizer" \
  --data "$out/tokens" --eval_data "$out/tokens" --output_dir "$out/run" --resume \
  --nproc "$ranks" --max_length 256 --per_device_train_batch_size 8 --global_batch_size 32 \
  --learning_rate 1e-3 --save_steps 100 "$@"
tidegate generate --base "$out/run/base" --raw --prompt "${PROMPT:-The}" --max_new_tokens 32
