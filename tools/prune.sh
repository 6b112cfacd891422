#!/bin/sh
# prune.sh FOLDER: take out of an installation's site-packages what a node never needs: tests of libraries, PyTorch's
# headers and compilers, what OpenVINO has for other processors and for models from files, and codecs that are no DICOM
# transfer syntax. A quarter of the disk.
set -eu
cd "$1"
rm -rf openvino/include openvino/libs/libopenvino_*_frontend.so* openvino/libs/libopenvino_intel_[gn]pu_* \
    openvino/libs/cache.json
rm -f imagecodecs/_avif.* imagecodecs/_pcodec.* imagecodecs/_sz3.* \
    imagecodecs.libs/libaom-* imagecodecs.libs/libavif-* imagecodecs.libs/libcpcodec-* imagecodecs.libs/libSZ3c-*
if [ -d torch ]; then
    rm -rf torch/test torch/include
    find torch/bin -type f ! -name torch_shm_manager -delete
fi
find . -name '*.pyi' -delete
find . -type d -name tests -prune -exec rm -r {} +
