# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`python -m robomd_ros.cli`."""

from robomd_ros.cli import main

raise SystemExit(main())
