#!/bin/sh
# Builds the software CUDA device: every kernel of this project compiled for the CPU, behind a libcuda.so.1, and a libnccl.so.2.
#   build.sh FOLDER [ARCH]     then run programs with LD_LIBRARY_PATH=FOLDER
# ARCH 900 (the default) is a GPU of compute capability 9.0 with the images for it, 800 one of 8.0 with the portable ones.
# SOURCES (.cu files) replaces the project's kernels. Needs g++ on x86-64; no CUDA. Files that have not changed are not
# compiled again.
set -e
here=$(cd "$(dirname "$0")" && pwd)
kernels=$(dirname "$here")
mkdir -p "$1"
out=$(cd "$1" && pwd)
arch=${2:-900}
flags="-std=c++20 -O2 -g -fPIC -fvisibility=hidden -Wall -Wno-unused -Wno-unknown-pragmas -fno-strict-aliasing -fno-stack-protector -U_FORTIFY_SOURCE -DCHULENGO_EMU -DCHULENGO_EMU_ARCH=$arch -I$kernels -I$here"
newest=$(ls -t "$kernels"/*.cuh "$here"/*.h "$here"/build.sh | head -1)
sources="$(ls "$here"/*.cpp) ${SOURCES:-$(ls "$kernels"/*.cu "$kernels"/testdata/*.cu)}"
object() { echo "$out/$(basename "$1").$arch.o"; }
compile() {
    if [ ! -e "$(object "$1")" ] || [ "$1" -nt "$(object "$1")" ] || [ "$newest" -nt "$(object "$1")" ]; then
        rm -f "$(object "$1")"
        g++ $flags -x c++ -c "$1" -o "$(object "$1")"
    fi
}
running=0
for source in $sources; do
    compile "$source" &
    running=$((running + 1))
    if [ $((running % 2)) -eq 0 ]; then wait; fi
done
wait
objects=
for source in $sources; do
    [ -e "$(object "$source")" ] || exit 1
    objects="$objects $(object "$source")"
done
g++ -shared -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1" $objects
g++ $flags -shared -Wl,-soname,libnccl.so.2 -o "$out/libnccl.so.2" "$here/nccl/nccl.cpp" -L"$out" -l:libcuda.so.1
