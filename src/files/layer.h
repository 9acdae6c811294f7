// What a container has changed: the upper directory of its overlay beside the image below it.
#pragma once

#include "src/files/packer.h"

namespace vmm::files {

// As the layer of an image: whiteouts and opaque directories are entries ".wh.NAME" and
// ".wh..wh..opq" (OCI image-spec, layer.md). Both are descriptors of directories. Error: what a
// layer cannot say, which is a directory that overlayfs has renamed without its files, and a file
// whose own name is one of those (Docker and containerd write it, and lose the file that it hides).
Result<void> pack_layer(Packer& packer, int upper, int lower);

// As Changes, each directory before what is in it.
Result<void> list_changes(Packer& packer, int upper, int lower);

}  // namespace vmm::files
