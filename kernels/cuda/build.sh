#!/bin/sh
# Compiles the kernels beside this script into image/*.fatbin, which the Go package embeds, and prepares what cgo needs.
#   build.sh            compile what has changed
#   build.sh env        print the environment in which `go build -tags cuda` works, for eval
# nvcc (12.4 to 13) is taken from NVCC or the PATH; where there is none, the compiler and the headers are fetched as Python
# packages (pip's configured mirror is honoured) into the folder toolkit, which git ignores. Register spills, local memory
# and serialised wgmma are errors. With IMAGES=DIR the images go there: to see what another compiler (nvcc124.sh) makes of them.
set -e
here=$(cd "$(dirname "$0")" && pwd)
toolkit=$here/toolkit
nvcc=${NVCC:-$(command -v nvcc || true)}
if [ -z "$nvcc" ]; then
    home=$toolkit/nvidia/cu13
    nvcc=$home/bin/nvcc
    if [ ! -x "$nvcc" ]; then
        rm -rf "$toolkit"
        # One call: the packages share folders, and pip does not merge them over two.
        python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$toolkit" \
            'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' >&2
        chmod +x "$home"/bin/* "$home"/nvvm/bin/*
    fi
fi
include=${CUDA_INCLUDE:-$(cd "$(dirname "$nvcc")/.." && pwd)/include}
if [ "$1" = env ]; then
    # gorgonia.org/cu asks for -lcuda; an empty archive serves, since the driver is found when the program starts.
    mkdir -p "$here/image"
    [ -e "$here/image/libcuda.a" ] || ar rcs "$here/image/libcuda.a"
    echo "export CGO_ENABLED=1"
    echo "export CGO_CFLAGS='-O2 -g -I$here/driver/shim -I$include'"
    echo "export CGO_LDFLAGS='-L$here/image'"
    exit 0
fi

images=${IMAGES:-$here/image}
mkdir -p "$images/test"
newest=$(ls -t "$here"/*.cuh "$here/build.sh" | head -1)
for source in "$here"/*.cu "$here"/testdata/*.cu; do
    family=$(basename "$source" .cu)
    case $source in */testdata/*) family=test/$family ;; esac # images for tests alone
    image=$images/$family.fatbin
    if [ -e "$image" ] && [ "$image" -nt "$source" ] && [ "$image" -nt "$newest" ]; then continue; fi
    targets="-gencode=arch=compute_90a,code=sm_90a"
    case $family in *90) ;; *) targets="$targets -gencode=arch=compute_80,code=[sm_80,compute_80]" ;; esac
    log=$images/$family.log
    rm -f "$image"
    if ! "$nvcc" -std=c++17 -O3 $targets -Xptxas -v,-warn-spills,-warn-lmem-usage -fatbin -o "$image.new" "$source" >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
    if grep -E 'spill|Local memory|C75[0-9][0-9]|serializ|warning' "$log" | grep -v ' 0 bytes spill stores, 0 bytes spill loads' >&2; then
        echo "$family: want no spills, no local memory, no warnings (see above)" >&2
        exit 1
    fi
    mv "$image.new" "$image"
    echo "$family: $(grep -c 'Compiling entry' "$log") kernels, $(wc -c <"$image") bytes, at most $(grep -o 'Used [0-9]* registers' "$log" | sort -k2 -n | tail -1 | cut -d' ' -f2) registers"
done
