#!/bin/sh
# Puts nvcc 12.4 into the folder named, where it is not there yet, for a machine without it: the compiler from Debian 13's packages (non-free;
# the mirror is the one that the machine has for Debian), headers from Python packages. NVCC=DIR/bin/nvcc kernels/cuda/build.sh then compiles
# with it.
set -e
home=$1
[ ! -x "$home/bin/nvcc" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(SITE) $(COMPONENT)' 'Created-By: Packages' | sed -n 's#^\(.*/debian\) main$#\1#p' | head -1)
[ -n "$mirror" ] || { echo "nvcc124.sh: want a Debian mirror among apt's sources, got none" >&2; exit 1; }
mkdir -p "$work/lists/partial" "$work/tree"
chmod 755 "$work"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie non-free" >"$work/sources.list"
apt="apt-get -qq -oDir::Etc::sourcelist=$work/sources.list -oDir::Etc::sourceparts=- -oDir::State::Lists=$work/lists -oAPT::Sandbox::User=root"
$apt update >&2
(cd "$work" && $apt download nvidia-cuda-toolkit >&2 && dpkg -x nvidia-cuda-toolkit_*.deb tree)
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/headers" \
    'nvidia-cuda-runtime-cu12==12.4.*' 'nvidia-cuda-nvcc-cu12==12.4.*' 'nvidia-cuda-cccl-cu12==12.4.*' >&2
rm -rf "$home"
mkdir -p "$home/bin" "$home/nvvm/bin" "$home/include"
cp "$work"/tree/usr/bin/ptxas "$work"/tree/usr/bin/fatbinary "$work"/tree/usr/bin/cudafe++ "$home/bin/"
cp "$work"/tree/usr/lib/nvidia-cuda-toolkit/bin/cicc "$home/nvvm/bin/"
cp -R "$work"/headers/nvidia/cuda_nvcc/nvvm/libdevice "$home/nvvm/"
for part in runtime nvcc cccl; do cp -R "$work/headers/nvidia/cuda_$part/include/." "$home/include/"; done
cat >"$home/bin/nvcc.profile" <<'PROFILE'
TOP                = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH              += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES          +=  "-I$(TOP)/include" $(_SPACE_)
PROFILE
cp "$work"/tree/usr/lib/nvidia-cuda-toolkit/bin/nvcc "$home/bin/"
