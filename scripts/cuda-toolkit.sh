#!/usr/bin/env bash
# Makes a CUDA toolkit from PyPI wheels, sufficient for building the `cuda` feature on a machine without a GPU:
#
#   eval "$(scripts/cuda-toolkit.sh DIR)"
#   cargo build --release --features cuda
#
# The resulting binary runs on any machine with an NVIDIA driver and the CUDA 13 libraries. Needs python3 with pip, gcc
# and about 1 GB; does nothing the second time. PIP_FIND_LINKS, PIP_INDEX_URL and the like work as for pip itself.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi

wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl
    nvidia-cuda-nvrtc==13.0.88
    nvidia-curand==10.4.0.35
)

mkdir -p "$1"
dir=$(cd "$1" && pwd)
cu="$dir/wheels/nvidia/cu13"
stamp="$dir/.complete"

# An empty library with the soname of a library that exists only on machines with a GPU.
stub() {
    gcc -shared -o "$dir/lib64/$2" -Wl,-soname,"$1" -x c /dev/null
}

make_toolkit() {
    rm -rf "$dir/wheels" "$dir/bin" "$dir/include" "$dir/nvvm" "$dir/lib64"
    python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --no-deps --target "$dir/wheels" "${wheels[@]}" >&2
    mkdir -p "$dir/bin" "$dir/lib64"
    ln -s "$cu/include" "$dir/include"
    ln -s "$cu/nvvm" "$dir/nvvm"
    # nvcc finds the rest of the toolkit relative to its own location, so the folder is linked, not copied.
    for file in "$cu"/bin/*; do
        ln -s "$file" "$dir/bin/"
    done
    for library in cudart nvrtc curand; do
        for found in "$cu"/lib/lib"$library".so.*; do
            ln -sf "$found" "$dir/lib64/"
            ln -sf "$found" "$dir/lib64/lib$library.so"
        done
    done
    for archive in "$cu"/lib/*.a; do
        ln -sf "$archive" "$dir/lib64/"
    done
    stub libcuda.so.1 libcuda.so
    stub libcublas.so.13 libcublas.so
    stub libcublasLt.so.13 libcublasLt.so
    write_compiler
    touch "$stamp"
}

# The stubs define nothing, so a program that links them must leave their symbols to the loader, and keep the libraries
# although nothing in them seems to be needed. The C compiler that rustc finds on the PATH adds these flags: setting
# RUSTFLAGS or another linker in cargo's configuration would rebuild every dependency.
write_compiler() {
    cat > "$dir/bin/cc" <<'COMPILER'
#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
PATH=":$PATH:"
PATH=${PATH//":$here:"/:}
PATH=${PATH#:}
PATH=${PATH%:}
for argument in "$@"; do
    # A long command line is passed in a file.
    if [ "$argument" = -lcublas ] || { [ "${argument:0:1}" = @ ] && grep -q -e '-lcublas' "${argument:1}"; }; then
        exec cc "$@" -Wl,--unresolved-symbols=ignore-all -Wl,--no-as-needed -lcuda -lcublas -lcublasLt
    fi
done
exec cc "$@"
COMPILER
    chmod +x "$dir/bin/cc"
}

[ -e "$stamp" ] || make_toolkit

cat <<EXPORTS
export CUDA_HOME='$dir'
export CUDA_PATH='$dir'
export CUDA_ROOT='$dir'
export PATH='$dir/bin':"\$PATH"
export LIBRARY_PATH='$dir/lib64'"\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-90}"
EXPORTS
