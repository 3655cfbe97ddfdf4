#!/usr/bin/env bash
# Starts Slurm on this computer alone, for the tests of `sweep --submit`. For root on Debian, with the packages
# slurm-wlm and munge. It replaces /etc/slurm/slurm.conf.
set -euo pipefail

cores=$(nproc)
host=$(hostname -s)
mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /run/munge /var/log/slurm
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldParameters=enable_configless
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=tests Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
[ -s /etc/munge/munge.key ] || { umask 077; head -c 1024 /dev/urandom >/etc/munge/munge.key; }
chown -R munge:munge /etc/munge /run/munge /var/lib/munge /var/log/munge
# Dead processes that nobody waits for are still in the list of processes.
runs() { pgrep --exact --runstates R,S,D "$1" >/dev/null; }
runs munged || runuser -u munge -- munged
runs slurmctld || slurmctld
runs slurmd || slurmd
for _ in $(seq 30); do
    [ "$(sinfo --noheader --format %T 2>/dev/null)" = idle ] && exit 0
    sleep 1
done
echo 'Slurm did not start:' >&2
tail -n 5 /var/log/slurm/*.log >&2
exit 1
