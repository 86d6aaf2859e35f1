# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What people see of a failure map: sentences, a table, pictures, and the HTML report."""

from robomd_ros.reports.conclusion import conclude
from robomd_ros.reports.figures import map_image, radar_svg
from robomd_ros.reports.page import write_report
from robomd_ros.reports.sentences import findings
from robomd_ros.reports.table import headline, map_table

__all__ = ['conclude', 'findings', 'headline', 'map_image', 'map_table', 'radar_svg',
           'write_report']
