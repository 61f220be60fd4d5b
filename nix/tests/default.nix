# What the module makes of several configurations, as data; crates/cli/tests/packaging looks at it.
# `--arg lib 'import <nixpkgs/lib>'` has the module system of nixpkgs say the same.
{
  lib ? import ./lib.nix,
}:
let
  pkgs = {
    coreutils = "/coreutils";
    drover = {
      type = "derivation";
      name = "drover";
      outPath = "/drover";
    };
  };

  evaluate =
    configuration:
    let
      inherit
        (lib.evalModules {
          specialArgs = { inherit pkgs; };
          modules = [
            ./nixos.nix
            ../module.nix
            { services.drover.enable = lib.mkDefault true; }
            configuration
          ];
        })
        config
        ;
    in
    {
      inherit (config)
        environment
        networking
        nix
        services
        systemd
        users
        warnings
        ;
      broken = map (it: it.message) (builtins.filter (it: !it.assertion) config.assertions);
    };

  flake = (import ../../flake.nix).outputs {
    self = flake;
    nixpkgs = {
      lib = {
        genAttrs = systems: of: builtins.listToAttrs (map (name: { inherit name; value = of name; }) systems);
        trivial.release = "26.05";
        nixosSystem =
          { modules }:
          lib.evalModules {
            specialArgs = { inherit pkgs; };
            modules = [
              ./nixos.nix
              {
                environment.etc."nix/machines".source = "/written/by/nixos";
                environment.etc."drover/machines".source = "/written/by/the/module";
              }
            ]
            ++ modules;
          };
      };
      legacyPackages.x86_64-linux = {
        callPackage = recipe: _: pkgs.drover // import recipe stubs;
        runCommand =
          name: _: script:
          "${name}: ${script}";
      };
    };
  };

  stubs = {
    lib = {
      licenses.mit = "MIT";
      licenses.asl20 = "Apache-2.0";
      platforms.linux = [ "x86_64-linux" ];
    };
    installShellFiles = "/install-shell-files";
    rustPlatform.buildRustPackage = package: package;
  };
in
{
  cases = builtins.mapAttrs (_: evaluate) {
    off = {
      services.drover.enable = false;
      services.drover.daemon.enable = true;
    };
    command = { };
    daemon = {
      services.drover.daemon.enable = true;
      # as NixOS has them
      environment.etc."nix/nix.conf".source = "/etc/static/nix.conf";
      systemd.services.nix-daemon.restartTriggers = [ "/etc/static/nix.conf" ];
    } // import ./machines.nix;
    undistributed = {
      services.drover.daemon.enable = true;
      nix.buildMachines = (import ./machines.nix).nix.buildMachines;
    };
    hook = {
      services.drover.hook.enable = true;
    };
    oldHook = {
      services.drover.hook.enable = true;
      nix.package.version = "2.33.3";
    };
    newHook = {
      services.drover.hook.enable = true;
      nix.package.version = "2.34.0pre20260101_abcdef0";
    };
    head = {
      services.drover.head.enable = true;
      services.drover.head.clients.alice = [ "ssh-ed25519 AAAA alice" ];
      services.drover.head.authorizedKeys = [ "ssh-ed25519 BBBB ci" ];
      nix.settings.trusted-users = [ "root" ];
    };
    misnamed = {
      services.drover.head.enable = true;
      services.drover.head.clients."alice = root" = [ ];
    };
    untrusted = {
      services.drover.head.enable = true;
      services.drover.head.trusted = false;
    };
    cache = {
      services.drover.cache = {
        enable = true;
        address = "[::]";
        port = 8080;
        priority = 30;
        signKeyFile = "/etc/nix/key.sec";
        openFirewall = true;
      };
    };
    plainCache.services.drover.cache.enable = true;
    both = {
      services.drover.daemon.enable = true;
      services.drover.hook.enable = true;
    };
    withoutNix = {
      nix.enable = false;
      services.drover.daemon.enable = true;
    };
  };

  # Each must be refused.
  refused = builtins.mapAttrs (_: configuration: (builtins.tryEval (builtins.deepSeq (evaluate configuration) true)).success) {
    unknown.services.drover.demon.enable = true;
    port.services.drover.cache.port = 65536;
  };

  # as what it is asked to be
  package = builtins.removeAttrs flake.packages.x86_64-linux.drover [
    "type"
    "name"
    "outPath"
  ];
  checks = flake.checks.x86_64-linux.machines;
  modules = flake.nixosModules;
  overlay = flake.overlays.default { callPackage = recipe: _: "made of ${toString recipe}"; } { };
}
