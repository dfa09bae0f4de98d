"""The control plane's certificates and command lines: etcd, kube-apiserver, kube-controller-manager.

The same for the lab's cluster and for `--api-only`; they differ in addresses and ports alone. Flags are those of
https://kubernetes.io/docs/reference/command-line-tools-reference/ and https://etcd.io/docs/v3.6/op-guide/configuration/.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import pki
from lab.kubeconfig import says, write_kubeconfig
from lab.pki import Pair

SERVICE_CIDR = "10.96.0.0/12"
SERVICE_IP = "10.96.0.1"
ADMIN = "kumulus-admin"

# Health is open to anyone, as probes need it; everything else asks for a certificate or a token.
_AUTHENTICATION = """\
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
"""


def ca_pair(folder: Path) -> Pair:
    """The cluster's authority in a control plane's ``folder``."""
    return pki.pair_at(folder / "pki", "kumulus-lab-ca")


@dataclass(frozen=True)
class ControlPlane:
    """Where a control plane keeps its files and listens.

    ``folder`` holds the PKI, ``data`` etcd's database. ``address`` is what the API server listens on and advertises.
    """

    folder: Path
    data: Path
    address: str
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    controller_manager_port: int = 10257

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def ca(self) -> Pair:
        return ca_pair(self.folder)

    @property
    def etcd_ca(self) -> Pair:
        return pki.pair_at(self.folder / "pki", "kumulus-lab-etcd-ca")

    def pair(self, name: str) -> Pair:
        return pki.pair_at(self.folder / "pki", name)

    def prepare(self, server_names: Sequence[str] = ()) -> None:
        """Make every certificate and file that the three programs read; what exists is kept."""
        folder = self.folder / "pki"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        ca = pki.authority(folder, self.ca.cert.stem)
        # etcd trusts an authority of its own: with the cluster's, any user's certificate would open the database.
        etcd_ca = pki.authority(folder, self.etcd_ca.cert.stem)
        pki.server(etcd_ca, self.pair("etcd"), "etcd", ["127.0.0.1", "localhost"])
        pki.client(etcd_ca, self.pair("apiserver-etcd"), "kube-apiserver")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        addresses = dict.fromkeys(["127.0.0.1", SERVICE_IP, self.address, *server_names])
        pki.server(ca, self.pair("apiserver"), "kube-apiserver", [*names, "localhost", *addresses])
        pki.client(ca, self.pair("apiserver-kubelet"), "kube-apiserver-kubelet-client", ["kumulus:kubelet-clients"])
        pki.signing_key(folder / "service-accounts.key")
        (folder / "authentication.yaml").write_text(_AUTHENTICATION)
        user = "system:kube-controller-manager"
        self.kubeconfig(self.folder / "controller-manager.kubeconfig", user)

    def kubeconfig(self, path: Path, user: str, groups: Sequence[str] = (), server: str | None = None) -> Path:
        """Issue a client certificate for ``user`` and write a kubeconfig with it to ``path``.

        One that says the same is kept, so that its holder's connections and caches stay good.
        """
        address = server or self.url
        if path.exists() and says(path, server=address, user=user, groups=groups):
            return path
        with tempfile.TemporaryDirectory(dir=self.folder / "pki") as scratch:
            pair = pki.client(self.ca, pki.pair_at(Path(scratch), "client"), user, groups)
            return write_kubeconfig(path, server=address, ca_cert=self.ca.cert, user=user, pair=pair)

    def etcd(self, binary: Path) -> list[str]:
        pair = self.pair("etcd")
        client_url = f"https://127.0.0.1:{self.etcd_port}"
        peer_url = f"https://127.0.0.1:{self.etcd_peer_port}"
        return [
            str(binary),
            "--name=lab",
            f"--data-dir={self.data}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=lab={peer_url}",
            f"--cert-file={pair.cert}",
            f"--key-file={pair.key}",
            f"--trusted-ca-file={self.etcd_ca.cert}",
            "--client-cert-auth",
            f"--peer-cert-file={pair.cert}",
            f"--peer-key-file={pair.key}",
            f"--peer-trusted-ca-file={self.etcd_ca.cert}",
            "--peer-client-cert-auth",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=5m",
            "--log-level=warn",
            # The page cache survives a kill -9 of etcd, which the lab tests; only a crash of the whole machine would
            # lose writes, and the lab does not outlive that anyway. With fsync a CI disk makes every write wait.
            "--unsafe-no-fsync",
        ]

    def apiserver(self, binary: Path, *, advertise: bool = True) -> list[str]:
        """``advertise=False`` keeps a loopback address out of the Service `kubernetes`, which refuses one."""
        folder = self.folder / "pki"
        serving, etcd_client, kubelet = (self.pair(n) for n in ("apiserver", "apiserver-etcd", "apiserver-kubelet"))
        argv = [
            str(binary),
            f"--bind-address={self.address}",
            f"--secure-port={self.api_port}",
            f"--tls-cert-file={serving.cert}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.ca.cert}",
            f"--authentication-config={folder / 'authentication.yaml'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--etcd-servers=https://127.0.0.1:{self.etcd_port}",
            f"--etcd-cafile={self.etcd_ca.cert}",
            f"--etcd-certfile={etcd_client.cert}",
            f"--etcd-keyfile={etcd_client.key}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
            f"--kubelet-client-certificate={kubelet.cert}",
            f"--kubelet-client-key={kubelet.key}",
            f"--kubelet-certificate-authority={self.ca.cert}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
        ]
        if advertise:
            return [*argv, f"--advertise-address={self.address}"]
        return [*argv, "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"]

    def controller_manager(self, binary: Path) -> list[str]:
        kubeconfig = self.folder / "controller-manager.kubeconfig"
        return [
            str(binary),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.controller_manager_port}",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.folder / 'pki' / 'service-accounts.key'}",
            f"--root-ca-file={self.ca.cert}",
            f"--cluster-signing-cert-file={self.ca.cert}",
            f"--cluster-signing-key-file={self.ca.key}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            # One replica: an election would only write a Lease every two seconds.
            "--leader-elect=false",
        ]
