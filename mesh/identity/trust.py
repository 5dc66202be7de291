"""The chain of trust above the participants: the operator, the system account, and what a server's configuration says of them.

The operator's own key signs only the operator's claims, which name a signing key; that one signs the accounts. So the first can lie in a
safe. An operator that was made elsewhere (`nsc`, `nats auth`) is adopted: with a seed of it, accounts are signed here; without, its owner
signs what `Authority.account_template` asks for.
"""

import json
from pathlib import Path
from typing import Any, Final

from mesh import clock
from mesh.crypto import jwt
from mesh.crypto.creds import format_credentials, parse_credentials
from mesh.crypto.keys import KeyPair, Kind, new_key, read_seed
from mesh.errors import ConfigError
from mesh.identity.keyring import Keyring

ACCOUNT: Final = "MESH"
SYSTEM: Final = "SYS"
SYSTEM_USER: Final = "mesh-push"
"""Who tells a running broker what changed."""

DISCONNECTS: Final = "$SYS.ACCOUNT.{}.DISCONNECT"
_ACCOUNT_TOKEN: Final = 3
"""The token of that subject which names the account: each account may import its own events and no other's."""


class Trust:
    """Over a Keyring. What changes files is called within `Keyring.locked`."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring

    @property
    def exists(self) -> bool:
        return self.keyring.has("operator.jwt")

    @property
    def can_sign(self) -> bool:
        """Whether accounts can be signed here."""
        return self.keyring.has("operator-signing.seed")

    def create(self) -> None:
        """An operator, its accounts and the system user. What is there stays, so a start that was interrupted is completed."""
        operator = self.keyring.key_or_new("operator.seed", Kind.OPERATOR)
        signing = self.keyring.key_or_new("operator-signing.seed", Kind.OPERATOR)
        self.keyring.key_or_new("account.seed", Kind.ACCOUNT)
        system = self.keyring.key_or_new("system.seed", Kind.ACCOUNT)
        self._sign_system(signing, system)
        now = clock.wall_s()
        if not self.keyring.has("system.creds"):
            user = new_key(Kind.USER)
            token = jwt.sign_user(system, user.public, SYSTEM_USER, issued=now)
            self.keyring.write("system.creds", format_credentials(token, user.seed))
        # Last: with it the rest is known to be there.
        token = jwt.sign_operator(operator, "mesh", system_account=system.public, signing_keys=[signing.public], issued=now)
        self.keyring.write("operator.jwt", token)

    def adopt(
        self,
        *,
        operator_jwt: str | None = None,
        account_seed: str | None = None,
        operator_seed: str | None = None,
        account_jwt: str | None = None,
        system_jwt: str | None = None,
        system_creds: str | None = None,
    ) -> None:
        """Use an operator and an account that were made elsewhere. Everything is checked before anything is written. Raises ConfigError.

        The first two are needed; what was given before needs not be given again. Without `operator_seed` (the operator's own, or one of its
        signing keys') this mesh signs no account. `account_jwt` keeps what the account already says beside what the mesh needs.
        `system_creds` are a user's in the system account, to tell a running broker.
        """
        if self.keyring.has("operator.seed"):
            raise ConfigError(f"{self.keyring.path} has an operator that was made here", hint="Name another state directory.")
        known = self.keyring.read("operator.jwt"), self.keyring.read("account.seed")
        if (operator_text := operator_jwt or known[0]) is None or (account_text := account_seed or known[1]) is None:
            raise ConfigError("an operator's JWT and an account's seed are needed", hint="--operator-jwt FILE --account-seed FILE")
        operator, account = jwt.read(operator_text.strip(), "operator"), _seed_of(account_text, Kind.ACCOUNT, "the account")
        if not operator.nats.get("system_account"):
            hint = "The mesh needs one, to hear who is gone: `nsc edit operator --system-account SYS`."
            raise ConfigError(f"the operator {operator.name} names no system account", hint=hint)
        if known[0] is not None and jwt.read(known[0].strip(), "operator").subject != operator.subject:
            raise ConfigError(f"{self.keyring.path} belongs to another operator", hint="Name another state directory.")
        if known[1] is not None and read_seed(known[1]).public != account.public:
            raise ConfigError(f"{self.keyring.path} belongs to another account", hint="Name another state directory.")
        signers = {operator.subject, *map(str, operator.nats.get("signing_keys") or ())}
        if operator_seed is not None and _seed_of(operator_seed, Kind.OPERATOR, "the operator").public not in signers:
            raise ConfigError("the operator's seed is none of the keys that the operator's JWT names", operator=operator.name)
        if account_jwt is not None and jwt.read(account_jwt.strip(), "account", issuers=signers).subject != account.public:
            raise ConfigError("the account's JWT is of another account than the seed")
        if system_jwt is not None:
            found = jwt.read(system_jwt.strip(), "account", issuers=signers).subject
            if found != operator.nats.get("system_account"):
                raise ConfigError("the system account's JWT is not the one that the operator names", found=found)
        if system_creds is not None:
            parse_credentials(system_creds, "the system user's file")
        given = {
            "operator-signing.seed": operator_seed, "account.seed": account_seed, "system.creds": system_creds,
            "account.jwt": account_jwt, "account-base.jwt": account_jwt, "system.jwt": system_jwt, "operator.jwt": operator_jwt,
        }  # fmt: skip
        for name, text in given.items():
            if text is not None:
                self.keyring.write(name, text.strip() + "\n")

    def operator(self) -> jwt.Claims:
        return jwt.read(self.operator_jwt(), "operator")

    def operator_jwt(self) -> str:
        return self._token("operator.jwt")

    def system_jwt(self) -> str | None:
        """The system account's claims; None where an adopted operator's were not given."""
        text = self.keyring.read("system.jwt")
        return None if text is None else text.strip()

    def system_public(self) -> str:
        return str(self.operator().nats.get("system_account") or "")

    def account_key(self) -> KeyPair:
        key = self.keyring.key("account.seed", Kind.ACCOUNT)
        if key is None:
            raise ConfigError(f"{self.keyring.path / 'account.seed'} is missing", hint="Restore it from a backup.")
        return key

    def signing_key(self) -> KeyPair:
        """The key that signs accounts. Raises ConfigError where it is kept elsewhere."""
        key = self.keyring.key("operator-signing.seed", Kind.OPERATOR)
        if key is None:
            raise ConfigError(
                "the operator's signing key is not here, so the account cannot be signed here",
                hint="`mesh auth export --account-template` prints what its owner signs (`nsc import account`); then "
                "`mesh auth init --account-jwt FILE`.",
            )
        return key

    def disconnects(self, local_subject: str) -> dict[str, Any]:
        """The import by which an account hears that one of its users has gone."""
        subject = DISCONNECTS.format(self.account_key().public)
        return {
            "name": "disconnects", "type": "stream", "subject": subject, "account": self.system_public(), "local_subject": local_subject,
        }  # fmt: skip

    def rotate_operator(self, *, retire: bool) -> None:
        """A new signing key beside the one in use; with `retire` it takes over, and the old one counts no more.

        A server reads the operator's claims when it starts. So: rotate, restart the servers, retire, restart them again.
        """
        own = self.keyring.key("operator.seed", Kind.OPERATOR)
        if own is None:
            raise ConfigError("the operator's own key is not here", hint="Its owner rotates: `nsc edit operator --sk generate`.")
        if retire:
            new = self.keyring.key("operator-signing.new.seed", Kind.OPERATOR)
            if new is None:
                raise ConfigError("there is no new signing key that could take over", hint="First: `mesh auth rotate operator`.")
            self.keyring.write("operator-signing.seed", new.seed + "\n")
            self.keyring.remove("operator-signing.new.seed")
            keys = [new.public]
            system = self.keyring.key("system.seed", Kind.ACCOUNT)
            if system is not None:
                self._sign_system(new, system)
        else:
            keys = [self.signing_key().public, self.keyring.key_or_new("operator-signing.new.seed", Kind.OPERATOR).public]
        token = jwt.sign_operator(own, self.operator().name, system_account=self.system_public(), signing_keys=keys, issued=clock.wall_s())
        self.keyring.write("operator.jwt", token)

    def server_config(self, account_jwt: str, resolver_dir: Path | str) -> str:
        """What a server's configuration says of all this. No secrets."""
        preload = {self.account_key().public: account_jwt}
        if (system := self.system_jwt()) is not None:
            preload[self.system_public()] = system
        lines = [
            f"operator: {json.dumps(self.operator_jwt())}",
            f"system_account: {self.system_public()}",
            "# Accounts that are pushed to a running server are kept in `dir`; the newer of that and the one below counts.",
            f"resolver {{ type: full, dir: {json.dumps(str(resolver_dir), ensure_ascii=False)}",
            '  allow_delete: false, interval: "2m", timeout: "500ms" }',
            "resolver_preload {",
            *(f"  {public}: {json.dumps(token)}" for public, token in preload.items()),
            "}",
        ]
        return "\n".join([*lines, ""])

    def _sign_system(self, signer: KeyPair, system: KeyPair) -> None:
        exports = [
            {
                "name": "disconnects",
                "type": "stream",
                "subject": DISCONNECTS.format("*"),
                "account_token_position": _ACCOUNT_TOKEN,
            }
        ]
        account = jwt.Account(system.public, SYSTEM, exports=exports, jetstream=False)
        self.keyring.write("system.jwt", jwt.sign_account(signer, account, issued=clock.wall_s()))

    def _token(self, name: str) -> str:
        text = self.keyring.read(name)
        if text is None:
            raise ConfigError(f"{self.keyring.path / name} is missing", hint="`mesh auth init` makes what is not there.")
        return text.strip()


def _seed_of(seed: str, kind: Kind, whose: str) -> KeyPair:
    key = read_seed(seed)
    if key.kind is not kind:
        raise ConfigError(f"the seed that was given for {whose} is of another kind of key", public=key.public)
    return key
