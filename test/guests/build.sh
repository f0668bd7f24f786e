#!/bin/sh
# Builds the guests.
#
#   build.sh                          the committed ones, in place, and SHA256SUMS
#   build.sh check                    the committed ones, elsewhere: fails unless every digest is as in SHA256SUMS
#   build.sh test                     the guests' own unit tests
#   build.sh toolchains DIRECTORY     what the templates of `dunlin new` are built with, as commands in DIRECTORY
#   build.sh seed-js OUT [SOURCE.js]  the JS handler (12 MB), or another source with the same engine
#   build.sh wasmtime DIRECTORY       the wasmtime that `make bench-peers` measures beside, into DIRECTORY/bin; ten minutes or more
#
# Everything it needs is pinned and kept under $DUNLIN_TOOLS (default: .tools at the top, which git ignores): Debian 12's
# Rust 1.96 with its library's source, crates by Cargo.lock, the JS tools by package-lock.json, Node where the machine's is too
# old for them. Nothing is installed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
tools=${DUNLIN_TOOLS:-$top/.tools}/guests
export LC_ALL=C

die() {
	echo "build.sh: $*" >&2
	exit 1
}

need() {
	command -v "$1" >/dev/null || die "$1 is missing: install the package $2"
}

# debs ROOT PACKAGE=VERSION...: Debian's packages, with the libraries that they need and this machine has not, unpacked.
debs() {
	into=$1
	shift
	need apt-get "apt (these packages are Debian's: on another system, run this in a debian:12 container)"
	need dpkg-deb dpkg
	rm -rf "$into" && mkdir -p "$into/debs"
	missing=$(apt-get -s -o Debug::NoLocking=1 --no-install-recommends install "$@" | awk '/^Inst/ { print $2 }') ||
		die "these Debian packages can't be had: run apt-get update; if they are gone, raise their versions and the digests: $*"
	for package in $missing; do
		case " $* " in *" $package="*) ;; *) set -- "$@" "$package" ;; esac
	done
	(cd "$into/debs" && apt-get -o APT::Sandbox::User="$(id -un)" download "$@" >/dev/null) || die "get Debian packages: $*"
	for deb in "$into"/debs/*.deb; do
		dpkg-deb -x "$deb" "$into"
	done
	rm -r "$into/debs"
	touch "$into/complete"
}

# rust: a toolchain whose std, built from source, targets wasm; rustup's has none where only registries can be reached.
rust_version=1.96.0+dfsg1-1~deb12u2
llvm_version=1:22.1.8-1~deb12u1

rust() {
	root=$tools/rust-$rust_version
	if [ ! -e "$root/complete" ]; then
		need cc "gcc and libc6-dev"
		debs "$root" "rustc-web=$rust_version" "libstd-rust-web-dev=$rust_version" "libstd-rust-web-1.96=$rust_version" \
			"rust-web-src=$rust_version" "rust-web-llvm=$rust_version" "cargo-web=$rust_version" \
			"lld-22=$llvm_version" "libllvm22=$llvm_version"
	fi
	linker=$(find "$root/usr/lib/rustlib" -name wasm-component-ld | head -n 1)
	libs=$(find "$root" -name 'libLLVM.so.*' | head -n 1)
	libs=$(dirname "$libs")
	export LD_LIBRARY_PATH="$libs" RUSTC="$root/usr/bin/rustc" CARGO_TARGET_DIR="$tools/target"
	# Building std is not stable yet.
	export RUSTC_BOOTSTRAP=1
	export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker"
	# No place of the build machine may get into the bytes.
	export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-Zunstable-options -Clinker-flavor=wasm-lld \
-Clink-arg=--wasm-ld-path=$root/usr/lib/llvm-22/bin/wasm-ld -Zlocation-detail=none --remap-path-prefix=$tools=/tools \
--remap-path-prefix=$here=/guests --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
	unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
}

# cargo_build PACKAGE OUT [FLAG...]: one at a time, so that no package decides on the features of another's dependencies.
cargo_build() {
	package=$1 out=$2
	shift 2
	(cd "$here" && "$root/usr/bin/cargo" build --quiet --locked --release --target wasm32-unknown-unknown \
		-Zbuild-std=std,panic_abort -Zbuild-std-features= -p "$package" "$@")
	mkdir -p "$(dirname "$out")"
	cp "$CARGO_TARGET_DIR/wasm32-unknown-unknown/release/$(echo "$package" | tr - _).wasm" "$out"
}

# Of the same line as the engine's library.
wasmtime_version=44.0.3

node_version=20.19.5

# js: the tools of npm, from a copy of the lock file, so that no node_modules comes to lie in the tree.
js() {
	need node nodejs
	need npm npm
	dir=$tools/js
	# Debian 12's Node is too old for these tools; npm has newer ones.
	if [ "$(node -p 'parseInt(process.versions.node)')" -lt 20 ]; then
		node=$tools/node-$node_version
		case $(uname -m) in x86_64) platform=linux-x64 ;; aarch64) platform=linux-arm64 ;; *) die "Node $node_version is missing for $(uname -m)" ;; esac
		[ -e "$node/complete" ] || {
			mkdir -p "$node"
			npm install --prefix "$node" --loglevel=error --no-audit --no-fund "node-$platform@$node_version"
			touch "$node/complete"
		}
		export PATH="$node/node_modules/node-$platform/bin:$PATH"
	fi
	if ! cmp -s "$here/seed-js/package-lock.json" "$dir/complete"; then
		rm -rf "$dir" && mkdir -p "$dir"
		cp "$here/seed-js/package.json" "$here/seed-js/package-lock.json" "$dir"
		(cd "$dir" && npm ci --loglevel=error --no-audit --no-fund)
		cp "$here/seed-js/package-lock.json" "$dir/complete"
	fi
}

# all DIRECTORY: every committed guest.
all() {
	rust
	js
	cargo_build hello-http "$1/hello-http/hello-http.wasm"
	cargo_build hello-cli "$1/hello-cli/hello-cli.wasm"
	cargo_build counter "$1/counter/counter.wasm"
	cargo_build coldroom "$1/coldroom/coldroom-v1.wasm"
	cargo_build coldroom "$1/coldroom/coldroom-v2.wasm" --features v2
	cargo_build hostile "$1/hostile/hostile.wasm"
	cargo_build photos "$1/photos/photos.wasm"
	cargo_build shelf "$1/shelf/shelf.wasm"
	cargo_build spin "$1/spin/spin.wasm"
	cargo_build ledger "$1/ledger/ledger.wasm"
	cargo_build conformance "$1/conformance/conformance.wasm"
	cargo_build courier "$1/courier/courier.wasm"
	mkdir -p "$1/vectors"
	for wat in "$here"/vectors/*.wat; do
		node "$dir/node_modules/.bin/jco" parse "$wat" -o "$1/vectors/$(basename "$wat" .wat).wasm"
	done
}

# seed_js OUT SOURCE: componentize-js takes wasi:http at one patch version only, so its WIT is ours under that number.
seed_js() {
	js
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	for package in cli clocks filesystem http io random sockets; do
		mkdir -p "$work/deps/$package"
		sed 's/@0\.2\.12/@0.2.10/' "$top/wit/deps/$package@0.2.12/$package.wit" >"$work/deps/$package/$package.wit"
	done
	cp "$here/seed-js/handler.wit" "$work"
	cp "$here/seed-js/build.mjs" "$dir"
	mkdir -p "$(dirname "$1")"
	node "$dir/build.mjs" "$2" "$work" "$work/out.wasm"
	mv "$work/out.wasm" "$1"
}

wasi_libc_version=0.0~git20220510.9886d3d-2
wit_bindgen_version=0.63.0

# clang: Debian's, with a libc for wasm, as wasi-sdk puts them together.
clang() {
	c_root=$tools/clang-${llvm_version#*:} # a colon would end a path of libraries
	[ -e "$c_root/complete" ] || debs "$c_root" "clang-22=$llvm_version" "lld-22=$llvm_version" "libllvm22=$llvm_version" \
		"libclang-cpp22=$llvm_version" "libclang-common-22-dev=$llvm_version" "libclang-rt-22-dev-wasm32=$llvm_version" \
		"wasi-libc=$wasi_libc_version"
}

# command_file FILE: an executable script from standard input.
command_file() {
	cat >"$1.new"
	chmod +x "$1.new"
	mv "$1.new" "$1"
}

# toolchains BIN: commands that do as the usual ones, where those can't be had from a registry.
toolchains() {
	bin=$1
	mkdir -p "$bin"
	js
	ln -sf "$(command -v node)" "$bin/node"
	rust
	# rustup has the target wasm32-wasip2; here std is built for it, and linked by the same linker.
	command_file "$bin/cargo" <<EOF
#!/bin/sh
set -eu
export LD_LIBRARY_PATH='$libs' RUSTC='$RUSTC' RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR='$tools/templates-target'
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER='$linker'
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS='-Zunstable-options -Clinker-flavor=wasm-lld \
-Clink-arg=--wasm-ld-path=$root/usr/lib/llvm-22/bin/wasm-ld -Cpanic=abort'
'$root/usr/bin/cargo' "\$@" --target wasm32-unknown-unknown -Zbuild-std=std,panic_abort -Zbuild-std-features=
mkdir -p target/wasm32-wasip2/release
cp "\$CARGO_TARGET_DIR/wasm32-unknown-unknown/release/handler.wasm" target/wasm32-wasip2/release/
EOF
	clang
	command_file "$bin/wasm32-wasip2-clang" <<EOF
#!/bin/sh
export LD_LIBRARY_PATH='$c_root/usr/lib/$(uname -m)-linux-gnu:$c_root/usr/lib/llvm-22/lib'
exec '$c_root/usr/lib/llvm-22/bin/clang' --target=wasm32-wasi -isystem '$c_root/usr/include/wasm32-wasi' \
	-B'$c_root/usr/lib/wasm32-wasi' -L'$c_root/usr/lib/wasm32-wasi' \
	-Wno-unused-command-line-argument -Wno-deprecated -fuse-ld='$linker' "\$@"
EOF
	[ -e "$tools/wit-bindgen-$wit_bindgen_version/bin/wit-bindgen" ] ||
		env -u CARGO_TARGET_DIR "$root/usr/bin/cargo" install --quiet --locked --version "$wit_bindgen_version" --no-default-features --features c,go \
			--root "$tools/wit-bindgen-$wit_bindgen_version" wit-bindgen-cli
	ln -sf "$tools/wit-bindgen-$wit_bindgen_version/bin/wit-bindgen" "$bin/wit-bindgen"
	ln -sf "$tools/js/node_modules/.bin/jco" "$bin/jco"
}

case ${1:-} in
"")
	all "$here"
	cd "$here"
	sha256sum -- */*.wasm >SHA256SUMS
	;;
check)
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	all "$work"
	cd "$work"
	sha256sum --quiet --check "$here/SHA256SUMS" || die "the recipe no longer gives the committed bytes"
	;;
test)
	rust
	cd "$here"
	"$root/usr/bin/cargo" test --quiet --locked -p coldroom
	"$root/usr/bin/cargo" test --quiet --locked -p coldroom --features v2
	;;
wasmtime)
	[ $# -eq 2 ] || die "wasmtime needs the folder to install into: build.sh wasmtime DIRECTORY"
	rust
	"$root/usr/bin/cargo" install --quiet --locked --version "$wasmtime_version" --root "$2" wasmtime-cli
	;;
toolchains)
	[ $# -eq 2 ] || die "toolchains needs the folder to fill: build.sh toolchains DIRECTORY"
	toolchains "$2"
	;;
seed-js)
	[ $# -ge 2 ] || die "seed-js needs the file to write: build.sh seed-js OUT [SOURCE.js]"
	seed_js "$2" "${3:-$here/seed-js/seed.js}"
	;;
*)
	die "no such target: $1; there are check, test, toolchains, seed-js and wasmtime, and without one all committed guests are built"
	;;
esac
