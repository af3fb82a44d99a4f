"""python -m sppo_lab"""

import sys

from sppo_lab.cli import main

sys.exit(main())
