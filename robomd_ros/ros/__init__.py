# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the nodes share: conversions, start and stop, diagnostics, the runner over the graph."""
