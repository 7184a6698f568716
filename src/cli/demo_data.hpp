#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace curvature::cli {

/// Images with their classes. Images `[N, 1, H, W]`, float32, standardised by the mean and standard
/// deviation of the training images' pixels; labels `[N]`, int64, 0 to 9.
struct DemoData {
  std::string name;  ///< for people: "Fashion-MNIST"
  at::Tensor train_images;
  at::Tensor train_labels;
  at::Tensor test_images;
  at::Tensor test_labels;

  static constexpr int64_t kNumClasses = 10;
};

/// Fashion-MNIST, 60000 + 10000 images of 28 x 28, from the files of the Debian package
/// dataset-fashion-mnist. @throws FileError that names the package if they are not there
DemoData load_fashion_mnist();

/// 1797 digits of 8 x 8 that are built into the tool; every fifth is kept for the test.
DemoData load_digits();

}  // namespace curvature::cli
