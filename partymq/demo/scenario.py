"""What happens in a run, step by step; the same for all ways, but only one has a server to kill, and only one
a coordinator among the workers."""

from partymq.demo.run import Run
from partymq.demo.ways import PartyMQ, PullGroup


def fly(run: Run) -> None:
    """Publish the flights while workers come, go and crash; returns when all is handled and all have left."""
    plan, way = run.plan, run.way
    run.scale_to(1)
    run.start_publisher()
    run.until_published(plan.grow_at)
    run.scale_to(plan.many)
    run.until_published(plan.kill_worker_at)
    run.kill_worker()
    run.until_published(plan.replace_worker_at)
    run.scale_to(plan.many)
    run.until_published(plan.kill_server_at)
    if isinstance(way, PartyMQ):
        run.kill_server(way)
    elif isinstance(way, PullGroup):
        run.kill_coordinator()
        run.scale_to(plan.many)
    run.until_published(plan.shrink_at)
    run.scale_to(plan.few)
    run.finish()
