"""What `ring-async check` and `up` refuse before anything is started: parts that cannot be made.

Owns: which parts are tried. Does not own making them. Imports lie inside, for some take seconds.
"""

from __future__ import annotations

from ring_async.config.schema import Config


def check_parts(config: Config) -> None:
    """Refuse what would only fail inside an actor: what cannot be made, and windows that hold no prompt."""
    from ring_async.actors.controller.prompt_search import check_window
    from ring_async.control.tls import read_certificate
    from ring_async.data.registry import make_source
    from ring_async.models import resolve_model_path
    from ring_async.verifiers.registry import make_verifier

    read_certificate(config.control)
    resolve_model_path(config.model.path)
    for name in config.mixture:
        source = config.sources[name]
        made = make_source(name, source)
        if name in config.difficulty:
            check_window(made, config.difficulty[name])
        make_verifier(source.verifier, config.verifiers[source.verifier]).close()
