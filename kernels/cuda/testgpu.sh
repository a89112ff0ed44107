#!/bin/sh
# Runs bin/gputest (make test-gpu) on a machine with a GPU; no Go is needed there.
#   testgpu.sh correct     every test, one after another
#   testgpu.sh sanitize    memcheck and racecheck of the short tests, where compute-sanitizer is; bench/LOG.md lists racecheck's false reports
#   testgpu.sh bytes       what forced routing reads from memory, by the hardware's counters, where ncu is
#   testgpu.sh serving     the tests of the command, the server and OpenAI's API, with the demo checkpoint on CHULENGO_TEST_DEVICE
#                          (cuda, cuda:0,cuda:1; default cuda), in the tree that they were built from
#   testgpu.sh time        the benchmarks
# Each stage has its own time limit (LIMIT seconds, default 120). A JSON line for each goes to OUT/results.jsonl as it ends, its
# output to OUT/STAGE.log; what failed is printed last, and the exit status is 1 then.
set -u
here=$(cd "$(dirname "$0")" && pwd)
binary=${GPUTEST:-$here/../../bin/gputest}
out=${OUT:-gputest.out}
limit=${LIMIT:-120}
failed=
[ -x "$binary" ] || { echo "testgpu: want the test binary at $binary (make test-gpu builds it)" >&2; exit 2; }
binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")
: "${CHULENGO_TESTDATA:=$(dirname "$binary")/testdata}"
export CHULENGO_TESTDATA
mkdir -p "$out" || exit 2

# stage NAME COMMAND...
stage() {
    name=$1
    shift
    begin=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    result=pass
    # A run that skips everything proves nothing.
    if grep -q -- '^--- SKIP' "$out/$name.log" && ! grep -q -e '^--- PASS' -e '^Benchmark.*ns/op' "$out/$name.log"; then result=skip; fi
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then result=timeout; elif [ $status -ne 0 ]; then result=fail; fi
    case $result in fail | timeout) failed="$failed $name" ;; esac
    line="{\"stage\":\"$name\",\"result\":\"$result\",\"status\":$status,\"seconds\":$(($(date +%s) - begin))}"
    echo "$line" >>"$out/results.jsonl"
    echo "$line"
}

# planted TOOL KERNEL STATUS TEXT: the tool's verdict on a kernel of testdata/planted.cu.
planted() {
    stage "$1-$2" env CHULENGO_PLANTED="$2" sh -c '
        compute-sanitizer --tool "$1" --error-exitcode 3 "$4" -test.run "^TestPlanted\$" >"$5" 2>&1
        status=$?
        cat "$5"
        [ $status -eq "$2" ] && grep -q "$3" "$5" || { echo "want status $2 and \"$3\", got status $status"; exit 1; }' \
        sh "$1" "$3" "$4" "$binary" "$out/planted.tmp"
}

tests() { "$binary" -test.list '^Test' | grep '^Test'; }
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)
echo "{\"gpu\":\"$gpu\",\"date\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",\"stage\":\"machine\",\"command\":\"${1:-}\"}" | tee -a "$out/results.jsonl"

case ${1:-} in
correct)
    for test in $(tests); do stage "$test" "$binary" -test.v -test.run "^$test\$"; done
    stage TestLoadMemory-scout env CHULENGO_LOAD_LAYERS=4 "$binary" -test.v -test.run '^TestLoadMemory$' # 22 GB of a sparse file
    ;;
sanitize)
    command -v compute-sanitizer >/dev/null || { echo "testgpu: compute-sanitizer is not on the PATH" >&2; exit 2; }
    for tool in memcheck racecheck; do
        for test in $(tests); do
            stage "$tool-$test" compute-sanitizer --tool "$tool" --error-exitcode 3 "$binary" -test.v -test.short -test.run "^$test\$"
        done
    done
    # What is planted is found, and nothing where nothing is: a tool that is blind would pass all of the above.
    planted memcheck planted_nothing 0 '0 errors'
    planted memcheck planted_write 3 'Invalid __global__ write of size 4'
    planted racecheck planted_nothing 0 '0 hazards'
    planted racecheck planted_race 3 'hazard'
    ;;
bytes)
    command -v ncu >/dev/null || { echo "testgpu: ncu is not on the PATH" >&2; exit 2; }
    want=$out/bytes.want
    rm -f "$want"
    stage ncu env CHULENGO_BYTES="$want" ncu --csv --print-units base --metrics dram__bytes_read.sum --kernel-name regex:^stream_ \
        "$binary" -test.run '^TestForcedRouting$/^scout$'
    # The last launches are those that the test lists, name and bytes. Each may read 2 % more or less.
    sed -n 's/.*"dram__bytes_read.sum","byte","\([0-9,.]*\)".*/\1/p' "$out/ncu.log" | tr -d , | tail -n "$(wc -l <"$want")" >"$out/bytes.got"
    stage bytes awk 'NR == FNR { got[NR] = $1; n = NR; next }
        { d = got[FNR] / $2 - 1; bad = FNR > n || d > 0.02 || d < -0.02; failed += bad; printf "%s: want %d bytes, got %d%s\n", $1, $2, got[FNR], bad ? ": WRONG" : "" }
        END { exit failed > 0 || FNR == 0 || NR != 2 * n }' "$out/bytes.got" "$want"
    ;;
serving)
    root=$(cd "$here/../.." && pwd)
    : "${CHULENGO_DEMO:=$root/demo/checkpoint}" "${CHULENGO_TEST_DEVICE:=cuda}"
    export CHULENGO_DEMO CHULENGO_TEST_DEVICE
    for package in cmd/chulengo serve serve/openai; do
        program=$(dirname "$binary")/$(basename "$package")test
        stage "$(basename "$package")" env -C "$root/$package" "$program" -test.v
        grep -e '^--- FAIL' -e '^--- SKIP' "$out/$(basename "$package").log"
    done
    ;;
time)
    for bench in $("$binary" -test.list '^Benchmark' | grep '^Benchmark'); do
        stage "$bench" "$binary" -test.run '^$' -test.bench "^$bench\$" -test.benchmem
        grep '^Benchmark' "$out/$bench.log"
    done
    ;;
*)
    echo "usage: testgpu.sh correct|sanitize|bytes|serving|time" >&2
    exit 2
    ;;
esac

for name in $failed; do
    echo "== $name"
    tail -25 "$out/$name.log"
done
[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
echo "nothing failed; $(grep -c '"result":"skip"' "$out/results.jsonl") stages were skipped"
