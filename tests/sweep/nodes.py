"""A Ray cluster of two nodes on the loopback address, as a process that obeys: ``kill`` ends the second node, end of input all.

It prints the address once both nodes are there. ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`` lets Ray keep 127.0.0.1 here and has to be
0 in the driver, which would else look for the cluster at another address of this machine.
"""

import os
import sys

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster


def say(line: str) -> None:
    """Answer on standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    loopback = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**loopback, "include_dashboard": False})
    second = cluster.add_node(**loopback)
    say(cluster.address)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
            say("killed")
    cluster.shutdown()
