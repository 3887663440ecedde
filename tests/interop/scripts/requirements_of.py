"""Print what a package of this environment requires, one a line: PACKAGE LEFT_OUT..."""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

package, *left_out = sys.argv[1:]
for line in requires(package) or []:
    requirement = Requirement(line)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in left_out:
        requirement.marker = None
        print(requirement)
