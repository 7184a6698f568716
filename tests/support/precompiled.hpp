#pragma once

// The one precompiled header of the tests; nothing else includes all of LibTorch.
#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
