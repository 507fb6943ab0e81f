"""An image shaped like Raspberry Pi OS (64 bit), made of Debian's packages: what a card holds before it is flashed.

Partitions, labels, mount points, the kernel's command line and the chain of the first boot are those of the release.
Kernel and RAM disk lie beside the image, for QEMU has no Raspberry Pi's firmware that would take them from the card.
Built once, which needs root (debootstrap's second stage runs in a chroot, emulated), and kept by a digest of its recipe.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arm import roots
from arm.roots import Missing, run

HERE = Path(__file__).parent
STANDINS = HERE / "standins"
PATIENCE = 1500.0
ELSEWHERE = "use a machine whose root may mount and use binfmt_misc"
MIB = 2**20
BOOT_MIB, ROOT_MIB = 256, 1024
BINFMT = Path("/proc/sys/fs/binfmt_misc")
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4", "crc32c_generic", "vfat", "nls_cp437",
           "nls_ascii", "nls_iso8859_1", "nls_utf8",
           "autofs4", "binfmt_misc", "gpio_keys", "evdev")  # fmt: skip
EARLY = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "vfat", "nls_cp437", "nls_ascii")
BASE = ("systemd-sysv", "systemd-timesyncd", "udev", "dbus", "iproute2", "kmod", "python3", "openssl", "ca-certificates",
        "e2fsprogs", "dosfstools", "fdisk", "tzdata")  # fmt: skip
TOOLS = {
    "debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static", "update-binfmts": "binfmt-support",
    "sfdisk": "fdisk", "mkfs.vfat": "dosfstools", "mke2fs": "e2fsprogs", "mcopy": "mtools", "depmod": "kmod",
    "cpio": "cpio", "qemu-system-aarch64": "qemu-system-arm", "mosquitto": "mosquitto", "openssl": "openssl",
    "systemd-analyze": "systemd",
    "dpkg-deb": "dpkg", "apt-get": "apt",
}  # fmt: skip
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
SEED = "datasource_list: [ NoCloud, None ]\ndatasource:\n  NoCloud:\n    seedfrom: file:///boot/firmware\n"
NETWORK = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\n"


@dataclass(frozen=True)
class Release:
    """A release of Raspberry Pi OS, 64 bit: what it is made of, and what is on its two partitions as it is released.

    `board` is its name for `fedfleet bundle`; `boot` and `root` are files besides those that all releases have.
    """

    suite: str
    board: str
    packages: tuple[str, ...]
    cmdline: str
    boot: tuple[tuple[str, str], ...] = ()
    root: tuple[tuple[str, str], ...] = ()


CONSOLE = "console=serial0,115200 console=tty1 root=PARTUUID={disk}-02 rootfstype=ext4 fsck.repair=yes rootwait quiet"
RELEASES = {
    "bookworm": Release("bookworm", "bookworm64", BASE, f"{CONSOLE} init=/usr/lib/raspberrypi-sys-mods/firstboot\n"),
    "trixie": Release(
        "trixie",
        "trixie64",
        (*BASE, "cloud-init", "netplan.io"),
        f"{CONSOLE} splash resize\n",
        (
            ("user-data", "#cloud-config\n"),
            ("network-config", "# network:\n"),
            ("meta-data", "instance_id: rpios-image\n"),
        ),
        (
            ("etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg", SEED),
            ("etc/systemd/system/cloud-init-local.service.d/card.conf", "[Unit]\nRequiresMountsFor=/boot/firmware\n"),
        ),
    ),
}


@dataclass(frozen=True)
class Image:
    """The card's image as it is released, and what starts it."""

    disk: Path
    kernel: Path
    initrd: Path


def check(built: bool, root: bool) -> None:
    """Raises Missing where this machine lacks a tool, or, with no image built and no `root`, the right to build it."""
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *SBIN])
    absent = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if absent:
        raise Missing(f"it needs more of Debian 12; as root: apt-get install {' '.join(absent)}")
    if not built and not root:
        raise Missing("the image is built by debootstrap in a chroot, which needs root, once: run it as root")


def built(release: Release, cache: Path) -> Path:
    """Return the folder in `cache` that holds, or is to hold, the image by this recipe."""
    recipe = "".join(path.read_text() for path in [Path(__file__), *sorted(STANDINS.iterdir())])
    return cache / f"{release.suite}-{_digest(release, recipe)}"


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def image(release: Release, cache: Path) -> Image:
    """Return the image, built if it is not there; raises Missing."""
    done = built(release, cache)
    if not done.is_dir():
        _build(release, cache, done)
    return Image(done / "card.img", done / "vmlinuz", done / "initrd")


def _build(release: Release, cache: Path, done: Path) -> None:
    building, debian = cache / f"{release.suite}-unfinished", _debian(release, cache)
    for old in cache.glob(f"{release.suite}-*"):
        _remove(old)
    root = building / "root"
    root.mkdir(parents=True)
    run(["tar", "-C", str(root), "-xf", str(debian)], "Debian's files")
    kernel = _kernel(building)
    disk_id = os.urandom(4).hex()
    _dress(release, root, disk_id)
    modules = _modules(kernel, root)
    _initrd(building, kernel, modules)
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), building / "vmlinuz")
    _disk(building, release, root, disk_id)
    for used in ("root", "packages", "apt", "ramdisk"):
        _remove(building / used)
    building.rename(done)


def _remove(folder: Path) -> None:
    """Remove a folder that nothing is mounted in; raises Missing where something is."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if mount.startswith(f"{folder.resolve()}/")]
    for mount in sorted(inside, reverse=True):
        run(["umount", mount], f"{mount}, left by a build that was cut off,")
    shutil.rmtree(folder, ignore_errors=not folder.exists())


def _debian(release: Release, cache: Path) -> Path:
    """Return the archive of a Debian whose packages are configured, which takes minutes to make."""
    done = cache / f"debian-{release.suite}-{_digest(release.suite, release.packages)}.tar"
    if not done.exists():
        root = cache / f"debian-{release.suite}-unfinished"
        _remove(root)
        root.mkdir(parents=True)
        _bootstrap(release, root)
        run(["tar", "-C", str(root), "-cf", f"{done}.new", "."], "Debian's archive")
        _remove(root)
        Path(f"{done}.new").rename(done)
    return done


def _kernel(building: Path) -> Path:
    """Return the unpacked kernel and BusyBox of Debian 12 for arm64."""
    unpacked = building / "packages"
    for package in roots.fetched("arm64", ("linux-image-arm64", "busybox-static"), (building / "apt").resolve()):
        if package.name.startswith(("linux-image-6", "busybox-static")):
            run(["dpkg-deb", "--extract", str(package), str(unpacked)], package.name)
    return unpacked


def _bootstrap(release: Release, root: Path) -> None:
    """Debian in `root`, its packages configured."""
    if not (BINFMT / "status").exists():
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], "binfmt_misc", remedy=ELSEWHERE)
    run(["update-binfmts", "--enable", "qemu-aarch64"], "the emulation of arm64", remedy=ELSEWHERE)
    include = f"--include={','.join(release.packages)}"
    command = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", include, release.suite, str(root)]
    run([*command, _mirror()], f"Debian's {release.suite} for arm64", PATIENCE)
    chroot(root, "/debootstrap/debootstrap", "--second-stage")
    for cached in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
        cached.unlink()


def chroot(root: Path, *command: str) -> None:
    """Run a command of the image's, emulated, with none of this machine's variables."""
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]
    run([*clean, "chroot", str(root), *command], f"{command[0]} in the image", PATIENCE, ELSEWHERE)


def _mirror() -> str:
    """Where this machine's apt has Debian 12 from."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Release: bookworm"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    if not found:
        raise Missing("apt knows no source of Debian 12 (bookworm); use a machine with Debian 12")
    return found[0]


def _dress(release: Release, root: Path, disk_id: str) -> None:
    """What Raspberry Pi OS has that Debian has not, as far as a first boot uses it."""
    chroot(root, "useradd", "--create-home", "--shell", "/bin/bash", "--uid", "1000", "pi")
    for service in ("systemd-networkd", "systemd-timesyncd", "systemd-networkd-wait-online"):
        chroot(root, "systemctl", "enable", service)
    files = {
        "etc/fstab": f"PARTUUID={disk_id}-01 /boot/firmware vfat defaults 0 2\nPARTUUID={disk_id}-02 / ext4 defaults,noatime 0 1\n",
        "etc/hostname": "raspberrypi\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n",
        "etc/machine-id": "",
        "etc/systemd/network/20-wired.network": NETWORK,
        **dict(release.root),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "boot" / "firmware").mkdir(parents=True, exist_ok=True)
    stand = {
        "firstboot": "usr/lib/raspberrypi-sys-mods", "imager_custom": "usr/lib/raspberrypi-sys-mods",
        "userconf": "usr/lib/userconf-pi", "report": "usr/local/sbin",
    }  # fmt: skip
    for name, folder in stand.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(STANDINS / name, root / folder / name)
        (root / folder / name).chmod(0o755)
    shutil.copy(STANDINS / "report.service", root / "etc" / "systemd" / "system" / "report.service")
    chroot(root, "systemctl", "enable", "report")


def _modules(kernel: Path, root: Path) -> list[Path]:
    """Give `root` the kernel's modules that it needs, and return those for the RAM disk, in the order of loading."""
    version = next((kernel / "lib" / "modules").iterdir()).name
    run(["depmod", "-b", str(kernel), version], "the list of modules")
    early = _needed(kernel, version, EARLY)
    for module in _needed(kernel, version, MODULES):
        to = root / "usr" / "lib" / "modules" / module.relative_to(kernel / "lib" / "modules")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, to)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(kernel / "lib" / "modules" / version / name, root / "usr" / "lib" / "modules" / version / name)
    run(["depmod", "-b", str(root), version], "the image's list of modules")
    return early


def _needed(kernel: Path, version: str, names: Sequence[str]) -> list[Path]:
    """Files of modules, each after those that it needs."""
    found = dict[Path, None]()
    for name in names:
        command = ["modprobe", "-d", str(kernel), "-S", version, "--show-depends", name]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found |= {Path(line.split()[1]): None for line in said.splitlines() if line.startswith("insmod ")}
    return list(found)


def _initrd(building: Path, kernel: Path, modules: list[Path]) -> None:
    tree = building / "ramdisk"
    for folder in ("bin", "boot", "dev", "modules", "proc", "system", "sys"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(kernel / "bin" / "busybox", tree / "bin" / "busybox")
    for module in modules:
        shutil.copy(module, tree / "modules")
    (tree / "modules" / "order").write_text("".join(f"{module.name}\n" for module in modules))
    for name in ("init", "imager_fixup"):
        shutil.copy(STANDINS / name, tree / name)
        (tree / name).chmod(0o755)
    pack = f"cd {tree} && find . | cpio --quiet -o -H newc | gzip -1 > {(building / 'initrd').resolve()}"
    run(["sh", "-c", pack], "the RAM disk")


def _disk(building: Path, release: Release, root: Path, disk_id: str) -> None:
    """MBR, a FAT32 called bootfs and an ext4 called rootfs, at the places where the release has them."""
    disk, boot, ext4 = (building / name for name in ("card.img", "boot.part", "root.part"))
    table = f"label: dos\nlabel-id: 0x{disk_id}\nstart=1MiB, size={BOOT_MIB}MiB, type=c\nsize={ROOT_MIB}MiB, type=83\n"
    for file, size in ((disk, 1 + BOOT_MIB + ROOT_MIB), (boot, BOOT_MIB), (ext4, ROOT_MIB)):
        with file.open("wb") as made:
            made.truncate(size * MIB)
    run(["sh", "-c", f"printf '{table}' | sfdisk --quiet {disk}"], "the partitions")
    run(["mkfs.vfat", "-F", "32", "-n", "bootfs", str(boot)], "the boot partition")
    files = {"cmdline.txt": release.cmdline.format(disk=disk_id), "config.txt": "arm_64bit=1\n[all]\n",
             "kernel8.img": "QEMU takes the kernel beside this image.\n", **dict(release.boot)}  # fmt: skip
    for name, text in files.items():
        (building / name).write_text(text)
        run(["mcopy", "-i", str(boot), str(building / name), f"::{name}"], name)
        (building / name).unlink()
    run(["mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", str(root), str(ext4)], "the root partition")
    for part, start in ((boot, 1), (ext4, 1 + BOOT_MIB)):
        run(
            ["dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start}", "conv=notrunc,sparse", "status=none"],
            "the image",
        )
        part.unlink()
