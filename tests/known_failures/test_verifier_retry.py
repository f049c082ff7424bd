from restartable_fleet import *
from ring_async.testing.scripted_verifier import ScriptedVerifier
logging.getLogger().setLevel(logging.ERROR)
SEEN = {}
class FailsOnce(ScriptedVerifier):
    """Cannot judge a prompt the first time it is asked (a time-out), and can from then on. Like a judge under load."""
    def __init__(self):
        super().__init__(lambda prompt, response: sum(map(int, response.text.split())) % 2 == 0, delay_s=0.02)
    async def score(self, prompt, response):
        from ring_async.errors import VerifierError
        n = SEEN[prompt.prompt_id] = SEEN.get(prompt.prompt_id, 0) + 1
        if int(prompt.prompt_id.split("/")[1]) % 10 == 3 and n <= 1:   # 1 prompt in 10, its first response asked
            raise VerifierError("timeout", "scripted")
        return await super().score(prompt, response)

def test_group_given_back_by_the_verifier_is_swallowed(tmp_path):
    SEEN.clear()
    f = fleet(tmp_path, verifiers={"exact": {"use": f"{__file__}:FailsOnce"}}, stop__policy_versions=40, rollout__lease_s=60.0, token_s=0.2, replay__max_staleness=4)
    st = {}
    import ring_async.transport.inbox as inbox
    orig = inbox.SessionInbox._on_carry
    swallowed = []
    def spy(self, session, carry, frames):
        if not carry.is_request and carry.seq > session.accepted and carry.after == session.accepted and (session.sender, carry.message_id) in self._acknowledged and self.endpoint.startswith("memory://reward"):
            swallowed.append((round(asyncio.get_running_loop().time(),1), session.sender, carry.message_id))
        return orig(self, session, carry, frames)
    inbox.SessionInbox._on_carry = spy
    try:
        failure = run(f, None, limit_s=20000)
    finally:
        inbox.SessionInbox._on_carry = orig
    led = f.controller.status().plain()["ledger"], f.controller.status().plain()["causes"]
    print("FAILURE:", failure, led)
    print("acknowledged by reward without being judged:", swallowed)
    for e in events(f, "group_failed"): print(e["group_id"], e["cause"], e["author"])
    print("wall", lines(f.run_dir.metrics)[-1]["wall_s"])
    print("prompts whose retry was never judged:", [p for p, n in SEEN.items() if int(p.split('/')[1]) % 10 == 3 and n <= 4])
    assert 0
