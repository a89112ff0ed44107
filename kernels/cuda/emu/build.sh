#!/bin/sh
# Builds the software CUDA device: every kernel of this project compiled for the CPU, behind a libcuda.so.1.
#   build.sh FOLDER     then run programs with LD_LIBRARY_PATH=FOLDER
# Needs g++ on x86-64; no CUDA. Files that have not changed are not compiled again.
set -e
here=$(cd "$(dirname "$0")" && pwd)
kernels=$(dirname "$here")
mkdir -p "$1"
out=$(cd "$1" && pwd)
flags="-std=c++20 -O2 -g -fPIC -Wall -Wno-unused -Wno-unknown-pragmas -fno-strict-aliasing -DCHULENGO_EMU -I$kernels"
newest=$(ls -t "$kernels"/*.cuh "$here"/*.h "$here"/build.sh | head -1)
compile() {
    object="$out/$(basename "$1").o"
    if [ ! -e "$object" ] || [ "$1" -nt "$object" ] || [ "$newest" -nt "$object" ]; then
        rm -f "$object"
        g++ $flags -x c++ -c "$1" -o "$object" || exit 1
    fi
}
for source in "$here"/*.cpp "$kernels"/*.cu; do
    compile "$source" &
    running=$((running + 1))
    if [ $((running % 2)) -eq 0 ]; then wait; fi
done
wait
for source in "$here"/*.cpp "$kernels"/*.cu; do
    [ -e "$out/$(basename "$source").o" ] || exit 1
done
g++ -shared -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1" "$out"/*.o
