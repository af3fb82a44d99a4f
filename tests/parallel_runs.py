"""Commands of the lab one after the other in this process: ``python tests/parallel_runs.py '[["train", ...], ...]'``.

``accelerate launch`` starts it in several processes, which import the libraries only once for all commands.
"""

import json
import sys

from sppo_lab.cli import main

if __name__ == "__main__":
    print(json.dumps([main(command) for command in json.loads(sys.argv[1])]))
