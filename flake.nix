{
  description = "drover: distributed builds for Nix";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEach = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
    in
    {
      packages = forEach (system: rec {
        drover = nixpkgs.legacyPackages.${system}.callPackage ./nix/package.nix { };
        default = drover;
      });

      overlays.default = final: _previous: { drover = final.callPackage ./nix/package.nix { }; };

      nixosModules = rec {
        drover = ./nix/module.nix;
        default = drover;
      };

      checks = forEach (system: {
        package = self.packages.${system}.drover;

        # The module, in a whole NixOS: its machines file is the one that NixOS writes itself.
        machines =
          let
            inherit (lib.nixosSystem {
              modules = [
                self.nixosModules.default
                ./nix/tests/machines.nix
                {
                  nixpkgs.hostPlatform = system;
                  system.stateVersion = lib.trivial.release;
                  services.drover = {
                    enable = true;
                    package = self.packages.${system}.drover;
                    daemon.enable = true;
                  };
                }
              ];
            }) config;
            etc = config.environment.etc;
          in
          nixpkgs.legacyPackages.${system}.runCommand "drover-machines" { } ''
            diff -u ${etc."nix/machines".source} ${etc."drover/machines".source}
            touch $out
          '';
      });
    };
}
