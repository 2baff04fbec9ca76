#!/usr/bin/env bash
# examples/pretrain as it stands, with a small model: from text to a word, and the Slurm script with
# stand-ins for srun and scontrol.  example_test.sh SOURCE BIN
set -euo pipefail
source=$1
export TIDEGATE_BIN=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/text"
cp "$source"/docs/*.md "$dir/text"
for file in "$dir"/text/*.md; do mv "$file" "${file%.md}.txt"; done
sed -e 's/"hidden_size": 320/"hidden_size": 64/' -e 's/"intermediate_size": 864/"intermediate_size": 96/' \
  -e 's/"num_hidden_layers": 6/"num_hidden_layers": 2/' -e 's/_heads": 5/_heads": 1/' \
  -e 's/"vocab_size": 8192/"vocab_size": 512/' "$source/examples/pretrain/config.json" >"$dir/config.json"
export CONFIG=$dir/config.json
small=(--dtype f32 --threads 1 --max_length 32 --per_device_train_batch_size 2 --global_batch_size 4
  --max_steps 12 --eval_sequences 8)

"$source/examples/pretrain/pretrain.sh" "$dir/text" "$dir/out" 2 "${small[@]}" >"$dir/first" 2>"$dir/log" ||
  { cat "$dir/log"; exit 1; }
[ -f "$dir/out/run/base/model.safetensors" ]
# Once more: nothing is trained twice.
"$source/examples/pretrain/pretrain.sh" "$dir/text" "$dir/out" 2 "${small[@]}" >"$dir/second" 2>"$dir/log"
grep -q "12 of 12 steps" "$dir/second"
[ "$(tail -n 1 "$dir/first")" = "$(tail -n 1 "$dir/second")" ]

# srun: one rank, which the first time is told to end, as at a time limit.
mkdir "$dir/bin"
cat >"$dir/bin/srun" <<'SRUN'
#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
if [ -f "$SLURM_TEST/told" ]; then exec "$@"; fi
touch "$SLURM_TEST/told"
exec timeout --signal=TERM --preserve-status 2 "$@" --max_steps 1000000
SRUN
cat >"$dir/bin/scontrol" <<'SCONTROL'
#!/usr/bin/env bash
echo "$@" >"$SLURM_TEST/requeued"
SCONTROL
chmod +x "$dir"/bin/*
export SLURM_TEST=$dir SLURM_JOB_ID=17 PATH=$dir/bin:$PATH
cpu=(--device cpu --reduction ordered)
bash "$source/examples/pretrain/slurm.sbatch" "$dir/out/tokens" "$dir/slurm" "$CONFIG" "$dir/out/tokenizer" \
  "${small[@]}" "${cpu[@]}" 2>"$dir/log" >/dev/null
[ "$(cat "$dir/requeued")" = "requeue 17" ] || { cat "$dir/log"; exit 1; }
# A wrong setting is not tried ten times.
code=0
bash "$source/examples/pretrain/slurm.sbatch" "$dir/none" "$dir/slurm2" "$CONFIG" "$dir/out/tokenizer" \
  "${small[@]}" "${cpu[@]}" 2>"$dir/log" >/dev/null || code=$?
[ $code = 2 ] || { echo "exit $code"; cat "$dir/log"; exit 1; }
