"""What happens in a run, step by step; the same for both ways, but a plain queue has no server to kill."""

from partymq.demo.run import Run
from partymq.demo.ways import PartyMQ


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
    run.until_published(plan.shrink_at)
    run.scale_to(plan.few)
    run.finish()
