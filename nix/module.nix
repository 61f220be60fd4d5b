# drover on NixOS. `nix.buildMachines`, `nix.distributedBuilds` and `nix.settings` are taken as they are.
#
# The Nix of the system stays: as evaluator, as the client, and as what other machines find.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    literalExpression
    mkDefault
    mkEnableOption
    mkForce
    mkIf
    mkMerge
    mkOption
    optionals
    types
    ;

  cfg = config.services.drover;
  drover = "${cfg.package}/bin/drover";

  # Some releases before 2.34 pass over build-hook in nix.conf without a word.
  nixVersion = config.nix.package.version or null;
  mayIgnoreHook = nixVersion != null && builtins.compareVersions nixVersion "2.34" < 0;

  # In no nix.conf: NixOS has Nix check that, which doesn't know the setting.
  naming =
    if cfg.head.enable && !cfg.head.trusted then
      " --option extra-naming-users ${cfg.head.user}"
    else
      "";

  # nix.distributedBuilds = false means no machines, as it does for Nix.
  machines = if config.nix.distributedBuilds then import ./machines.nix config.nix.buildMachines else "";

  # What packaging/systemd/drover.service has, with its reasons.
  daemonService = {
    Type = "notify";
    WatchdogSec = 30;
    Restart = "on-failure";
    RestartSec = 1;
    KillMode = "mixed";
    TimeoutStopSec = 90;
    OOMPolicy = "continue";
    # NixOS sets it itself where nix.conf has use-cgroups
    Delegate = mkDefault true;
    TasksMax = 1048576;
    UMask = "0022";
    ProtectHome = "read-only";
    CacheDirectory = "drover";
    PrivateTmp = true;
    ProtectKernelModules = true;
    ProtectClock = true;
    SystemCallArchitectures = "native x86 arm";
  };

  # What packaging/systemd/drover-cache@.service has.
  cacheService = {
    Restart = "on-failure";
    RestartSec = 1;
    LimitNOFILE = 65536;
    OOMPolicy = "continue";
    DynamicUser = true;
    UMask = "0077";
    NoNewPrivileges = true;
    CapabilityBoundingSet = "";
    ProtectSystem = "strict";
    ProtectHome = true;
    PrivateTmp = true;
    PrivateDevices = true;
    PrivateUsers = true;
    ProtectKernelTunables = true;
    ProtectKernelModules = true;
    ProtectKernelLogs = true;
    ProtectControlGroups = true;
    ProtectClock = true;
    ProtectHostname = true;
    ProtectProc = "invisible";
    ProcSubset = "pid";
    RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX";
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    RemoveIPC = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
  };
in
{
  options.services.drover = {
    enable = mkEnableOption "drover, distributed builds for Nix; by itself this is the command only";

    package = mkOption {
      type = types.package;
      default = pkgs.drover or (pkgs.callPackage ./package.nix { });
      defaultText = literalExpression "pkgs.drover";
      description = "The drover to use.";
    };

    daemon.enable = mkEnableOption ''
      drover in the place of nix-daemon: the same socket, the same store, under the same name
      `nix-daemon.service`, with one scheduler for all clients'';

    hook.enable = mkEnableOption ''
      drover as the build hook of Nix's own daemon, which stays in its place'';

    head = {
      enable = mkEnableOption ''
        a head for a team: others have `ssh-ng://USER@HOST` of this machine as their one builder, and its
        daemon spreads their builds over `nix.buildMachines`'';

      user = mkOption {
        type = types.str;
        default = "drover";
        description = "The user that others log in as. It can do nothing but speak to the daemon.";
      };

      clients = mkOption {
        type = types.attrsOf (types.listOf types.str);
        default = { };
        example = {
          alice = [ "ssh-ed25519 AAAAC3Nz… alice@laptop" ];
        };
        description = ''
          The public SSH keys of those who may have builds made, in full, by the names that they have on the
          head: slots are shared out evenly among names, and a name's builds are its own.
        '';
      };

      authorizedKeys = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "ssh-ed25519 AAAAC3Nz… ci" ];
        description = "Keys of more clients, who all count as one.";
      };

      trusted = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether what they send is taken at their word, unsigned inputs as well. They can then do what root
          can do with the store. Otherwise inputs must be signed or content-addressed; names count all the same.
        '';
      };
    };

    cache = {
      enable = mkEnableOption "serving this machine's store as a binary cache over HTTP";

      address = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "[::]";
        description = "The address to listen at.";
      };

      port = mkOption {
        type = types.port;
        default = 5000;
        description = "The port to listen at.";
      };

      priority = mkOption {
        type = types.int;
        default = 40;
        description = "What clients order caches by; lower is asked first.";
      };

      signKeyFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/etc/nix/key.sec";
        description = ''
          A file with the key that signs what is served; not in the store, where everybody could read it.
          Without one, paths have the signatures that they have.
        '';
      };

      openFirewall = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the firewall lets others reach the port.";
      };
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      environment.systemPackages = [ cfg.package ];

      assertions = [
        {
          assertion = config.nix.enable || !(cfg.daemon.enable || cfg.hook.enable);
          message = ''
            services.drover: the daemon and the hook use the socket, the build users and the nix.conf that
            NixOS makes for Nix, but nix.enable is false. Set nix.enable = true.
          '';
        }
        {
          assertion = !(cfg.daemon.enable && cfg.hook.enable);
          message = ''
            services.drover: daemon.enable puts drover in the place of Nix's daemon, hook.enable puts it
            under that daemon. Choose one of them.
          '';
        }
        {
          assertion = builtins.all (name: builtins.match "[A-Za-z0-9._@+-]{1,64}" name != null) (
            builtins.attrNames cfg.head.clients
          );
          message = "services.drover: the names in head.clients must be up to 64 letters, digits and ._@+-";
        }
      ];

      warnings =
        optionals
          (
            (cfg.daemon.enable || cfg.hook.enable)
            && config.nix.buildMachines != [ ]
            && !config.nix.distributedBuilds
          )
          [
            "services.drover: nix.buildMachines has machines, but nix.distributedBuilds is false, so none of them is used."
          ]
        ++ optionals (cfg.hook.enable && mayIgnoreHook) [
          "services.drover: Nix ${nixVersion} may pass over 'build-hook', as some releases before 2.34 do. If 'drover builds' doesn't show your builds, hook.enable has no effect: use daemon.enable instead."
        ];
    }

    (mkIf cfg.daemon.enable {
      environment.etc."drover/machines".text = machines;

      systemd.services.nix-daemon = {
        description = "drover in the place of the Nix daemon";
        environment.XDG_CACHE_HOME = "/var/cache/drover";
        # changed machines and settings drop no build: NixOS would restart the unit for a new nix.conf
        restartTriggers = mkForce [ ];
        reloadTriggers = [
          machines
          (config.environment.etc."nix/nix.conf".source or "")
        ];
        serviceConfig = daemonService // {
          # the empty one takes away what the unit of Nix has
          ExecStart = [
            ""
            "${drover} daemon --option builders @/etc/drover/machines${naming}"
          ];
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        };
      };
    })

    (mkIf cfg.hook.enable {
      nix.settings.build-hook = "${drover} hook";
    })

    (mkIf cfg.head.enable {
      services.drover.daemon.enable = true;
      services.openssh.enable = true;

      users.groups.${cfg.head.user} = { };
      users.users.${cfg.head.user} = {
        isSystemUser = true;
        group = cfg.head.user;
        description = "drover's clients";
        # sshd runs the command of a key by the user's shell
        useDefaultShell = true;
        openssh.authorizedKeys.keys =
          builtins.concatMap (
            name:
            map (
              # by env, whatever shell the user has
              key: ''restrict,command="${pkgs.coreutils}/bin/env DROVER_CLIENT=${name} ${drover} daemon --stdio" ${key}''
            ) cfg.head.clients.${name}
          ) (builtins.attrNames cfg.head.clients)
          ++ map (key: ''restrict,command="${drover} daemon --stdio" ${key}'') cfg.head.authorizedKeys;
      };

      nix.settings.trusted-users = mkIf cfg.head.trusted [ cfg.head.user ];
    })

    (mkIf cfg.cache.enable {
      networking.firewall.allowedTCPPorts = mkIf cfg.cache.openFirewall [ cfg.cache.port ];

      systemd.services.drover-cache = {
        description = "drover's binary cache";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        unitConfig.RequiresMountsFor = "/nix/store /nix/var/nix";
        serviceConfig = cacheService // {
          ExecStart = lib.concatStringsSep " " (
            [
              drover
              "cache serve"
              "--listen ${cfg.cache.address}:${toString cfg.cache.port}"
              "--priority ${toString cfg.cache.priority}"
            ]
            # systemd puts the place of its credentials for %d
            ++ optionals (cfg.cache.signKeyFile != null) [ "--sign-key-file %d/key" ]
          );
          LoadCredential = optionals (cfg.cache.signKeyFile != null) [ "key:${cfg.cache.signKeyFile}" ];
        };
      };
    })
  ]);
}
