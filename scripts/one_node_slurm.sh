#!/usr/bin/env bash
# Starts and stops a Slurm of its own on this computer, for the tests of `sweep --submit`. For root on Debian, with the
# packages slurm-wlm and munge. All of its files are in FOLDER, and its ports are not those of another Slurm.
#
#     scripts/one_node_slurm.sh start FOLDER && export SLURM_CONF=FOLDER/slurm.conf
#     scripts/one_node_slurm.sh stop FOLDER
set -euo pipefail

[ "$#" -eq 2 ] || { echo "usage: $0 start|stop FOLDER" >&2; exit 2; }
folder=$(realpath --canonicalize-missing "$2")
daemons=(slurmd slurmctld munged)
export SLURM_CONF=$folder/slurm.conf

# A daemon that has ended may stay in the list of processes as a zombie, if nobody waits for it.
runs() { ps -o stat= -p "$1" | grep -qv '^Z'; }

stop() {
    local daemon pid
    # The jobs would outlive the daemons.
    if [ -s "$folder/slurmctld.pid" ] && scancel --me 2>/dev/null; then
        for _ in $(seq 100); do
            [ -n "$(squeue --noheader 2>/dev/null)" ] || break
            sleep 0.1
        done
    fi
    for daemon in "${daemons[@]}"; do
        [ -s "$folder/$daemon.pid" ] || continue
        pid=$(cat "$folder/$daemon.pid")
        kill "$pid" 2>/dev/null || :
        for _ in $(seq 100); do
            runs "$pid" || break
            sleep 0.1
        done
    done
}

start() {
    local cores host
    cores=$(nproc)
    host=$(hostname -s)
    mkdir -p "$folder/slurmctld" "$folder/slurmd"
    cat >"$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/slurmctld
SlurmdSpoolDir=$folder/slurmd
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=tests Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    [ -s "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --log-file "$folder/munged.log" --seed-file "$folder/munged.seed"
    slurmctld
    slurmd
    for _ in $(seq 150); do
        [ "$(sinfo --noheader --format %T 2>/dev/null)" = idle ] && return
        sleep 0.2
    done
    echo 'Slurm did not start:' >&2
    tail -n 5 "$folder"/*.log >&2
    stop
    return 1
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) echo "$0: expected start or stop, got $1" >&2; exit 2 ;;
esac
