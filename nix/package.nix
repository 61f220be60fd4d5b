# drover as a package of nixpkgs. Its tests want root, namespaces and several releases of Nix, which a
# build hasn't: they are run by `make test`.
{
  lib,
  rustPlatform,
  installShellFiles,
}:

let
  manifest = builtins.fromTOML (builtins.readFile ../Cargo.toml);
in
rustPlatform.buildRustPackage {
  pname = "drover";
  version = manifest.workspace.package.version;

  # Everything that cargo reads, and what is installed.
  src = builtins.path {
    name = "drover-source";
    path = ../.;
    filter =
      path: _type:
      !(builtins.elem (baseNameOf path) [
        ".git"
        ".cache"
        "target"
        "result"
        "flake.lock"
      ]);
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "--package"
    "drover-cli"
  ];
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];

  postInstall = ''
    $out/bin/drover man-pages $out/share/man/man1
    installShellCompletion --cmd drover \
      --bash <($out/bin/drover completions bash) \
      --zsh <($out/bin/drover completions zsh) \
      --fish <($out/bin/drover completions fish)
    install -Dm644 -t $out/lib/systemd/system packaging/systemd/*
    substituteInPlace $out/lib/systemd/system/* --replace-warn /usr/bin/drover $out/bin/drover
  '';

  meta = {
    description = "Distributed builds for Nix";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "drover";
    platforms = lib.platforms.linux;
  };
}
