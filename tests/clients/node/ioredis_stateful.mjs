// ioredis, unchanged, where its connections carry state: transactions, waits, subscriptions, MONITOR, scripts.
import Redis from 'ioredis'
import { assert, host, port, main, until, untilBlocked } from './common.mjs'

const open = (options = {}) => new Redis({ host, port, maxRetriesPerRequest: 3, ...options })
const range = n => Array.from({ length: n }, (_, i) => i)

const admin = open()
const blocked = n => untilBlocked(() => admin.info('clients'), n)

await main({
  'a transaction answers every command': async () => {
    const r = open()
    assert.deepEqual(await r.multi().set('k', 'v').get('k').incr('n').hset('h', 'a', 1).hgetall('h').exec(),
      [[null, 'OK'], [null, 'v'], [null, 1], [null, 1], [null, { a: '1' }]])
    const replies = await r.multi().incr('n').lpush('k', 'x').incr('n').exec()
    assert.deepEqual([replies[0], replies[2]], [[null, 2], [null, 3]])
    assert.match(replies[1][0].message, /WRONGTYPE/)
    await assert.rejects(r.multi().set('never', 1).call('NOSUCH').exec(), /EXECABORT/)
    assert.equal(await r.get('never'), null)
    // Command by command, each a round trip of its own.
    await r.multi({ pipeline: false })
    assert.equal(await r.set('slow', 1), 'QUEUED')
    assert.equal(await r.get('slow'), 'QUEUED')
    assert.equal(await admin.get('slow'), null)
    assert.deepEqual(await r.exec(), [[null, 'OK'], [null, '1']])
    await r.multi({ pipeline: false })
    await r.set('slow', 2)
    assert.equal(await r.discard(), 'OK')
    assert.equal(await r.get('slow'), '1')
    await r.quit()
  },
  'a pipeline may hold transactions': async () => {
    const r = open()
    const replies = await r.pipeline()
      .set('p', 1).multi().incr('p').incr('p').exec().get('p').multi().del('p').exec().get('p').exec()
    assert.deepEqual(replies.map(([, reply]) => reply),
      ['OK', 'OK', 'QUEUED', 'QUEUED', [2, 3], '3', 'OK', 'QUEUED', [1], null])
    await r.quit()
  },
  'transactions of one client at once keep apart': async () => {
    const r = open()
    const counts = await Promise.all(range(200).map(async n => {
      const replies = await r.multi().incr('c').set('last', n).incr('c').get('last').exec()
      assert.equal(replies[3][1], `${n}`)
      assert.equal(replies[2][1], replies[0][1] + 1)
      return replies[2][1]
    }))
    assert.deepEqual(counts, range(200).map(n => 2 * n + 2))
    await r.quit()
  },
  'a watched key that changed gives null': async () => {
    const r = open()
    await r.watch('w')
    await admin.set('w', 'changed')
    assert.equal(await r.multi().set('w', 'mine').exec(), null)
    await r.watch('w')
    assert.deepEqual(await r.multi().set('w', 'mine').get('w').exec(), [[null, 'OK'], [null, 'mine']])
    await r.watch('w')
    await admin.set('w', 'changed')
    await r.unwatch()
    assert.deepEqual(await r.multi().get('w').exec(), [[null, 'changed']])
    await r.quit()
  },
  'watch loops of many clients lose no update': async () => {
    await Promise.all(range(8).map(async () => {
      const r = open()
      for (let done = 0; done < 10;) {
        await r.watch('counter')
        const value = Number(await r.get('counter'))
        if (await r.multi().set('counter', value + 1).exec()) done++
      }
      await r.quit()
    }))
    assert.equal(await admin.get('counter'), '80')
  },
  'duplicates wait while the original works': async () => {
    const r = open()
    const waiters = range(6).map(() => r.duplicate())
    const waits = waiters.map((w, n) => n % 2 ? w.blpop(`q:${n}`, 0) : w.brpoplpush(`q:${n}`, 'moved', 0))
    await blocked(6)
    for (const n of range(6)) await r.rpush(`q:${n}`, `for ${n}`)
    assert.deepEqual(await Promise.all(waits), range(6).map(n => n % 2 ? [`q:${n}`, `for ${n}`] : `for ${n}`))
    assert.deepEqual(await r.lrange('moved', 0, -1), [4, 2, 0].map(n => `for ${n}`))
    assert.equal(await r.blpop('none', 0.05), null)
    await r.zadd('z', 1, 'one')
    assert.deepEqual(await r.bzpopmin('z', 5), ['z', 'one', '1'])
    assert.deepEqual(await r.call('BLMPOP', 5, 1, 'moved', 'LEFT'), ['moved', ['for 4']])
    // What follows a wait on the same connection waits too.
    const order = []
    const both = [
      waiters[0].blpop('late', 0).then(() => order.push('blpop')),
      waiters[0].get('k').then(() => order.push('get')),
    ]
    await blocked(1)
    await r.rpush('late', 'x')
    await Promise.all(both)
    assert.deepEqual(order, ['blpop', 'get'])
    await Promise.all([r, ...waiters].map(c => c.quit()))
  },
  'a client that disconnects while it waits takes nothing': async () => {
    const r = open()
    const wait = assert.rejects(r.blpop('left', 0))
    await blocked(1)
    r.disconnect()
    await wait
    await blocked(0)
    await admin.rpush('left', 'kept')
    assert.deepEqual(await admin.lrange('left', 0, -1), ['kept'])
  },
  'streams are read as they grow, alone and by groups': async () => {
    const [reader, one, two] = range(3).map(() => open())
    const wait = reader.xread('BLOCK', 0, 'STREAMS', 's', '$')
    await blocked(1)
    const id = await admin.xadd('s', '*', 'n', 1)
    assert.deepEqual(await wait, [['s', [[id, ['n', '1']]]]])
    assert.equal(await reader.xread('BLOCK', 20, 'STREAMS', 's', '$'), null)
    await admin.xgroup('CREATE', 's', 'g', '$')
    const waits = [one, two].map((c, n) =>
      c.xreadgroup('GROUP', 'g', `c${n}`, 'COUNT', 1, 'BLOCK', 0, 'STREAMS', 's', '>'))
    await blocked(2)
    await admin.xadd('s', '*', 'n', 2)
    await admin.xadd('s', '*', 'n', 3)
    const got = (await Promise.all(waits)).map(([[, [[entry, fields]]]]) => [entry, fields[1]])
    assert.deepEqual(got.map(([, n]) => n).sort(), ['2', '3'])
    assert.equal(await one.xack('s', 'g', ...got.map(([entry]) => entry)), 2)
    await Promise.all([reader, one, two].map(c => c.quit()))
  },
  'subscribers of channels, patterns and shard channels hear theirs': async () => {
    const [sub, shard] = [open(), open()]
    const heard = []
    sub.on('message', (channel, message) => heard.push(['message', channel, message]))
    sub.on('pmessage', (pattern, channel, message) => heard.push(['pmessage', pattern, channel, message]))
    shard.on('smessage', (channel, message) => heard.push(['smessage', channel, message]))
    assert.equal(await sub.subscribe('a', 'b'), 2)
    assert.equal(await sub.psubscribe('a*'), 3)
    assert.equal(await shard.ssubscribe('shard'), 1)
    assert.deepEqual(await sub.ping(), ['pong', ''])
    await assert.rejects(sub.get('k'), /subscriber mode/)
    assert.equal(await admin.publish('a', '1'), 2)
    assert.equal(await admin.publish('b', '2'), 1)
    assert.equal(await admin.spublish('shard', '3'), 1)
    await until(() => heard.length === 4, 'four messages')
    assert.deepEqual(heard.sort(), [
      ['message', 'a', '1'], ['message', 'b', '2'], ['pmessage', 'a*', 'a', '1'], ['smessage', 'shard', '3']])
    assert.equal(await sub.unsubscribe('a'), 2)
    assert.equal(await sub.unsubscribe('b'), 1)
    assert.equal(await sub.punsubscribe('a*'), 0)
    assert.equal(await shard.sunsubscribe('shard'), 0)
    // Not subscribed any more, they are clients as any other.
    for (const r of [sub, shard]) {
      assert.equal(await r.set('after', 1), 'OK')
      await r.quit()
    }
  },
  'fifty subscribers hear everything in order': async () => {
    const subs = range(50).map(() => open())
    const heard = subs.map(() => [])
    subs.forEach((sub, n) => sub.on('messageBuffer', (channel, message) => heard[n].push(message.toString())))
    await Promise.all(subs.map((sub, n) => sub.subscribe('all', `own:${n}`)))
    await Promise.all(range(100).map(n => admin.publish('all', n)))
    await Promise.all(subs.map((_, n) => admin.publish(`own:${n}`, 'mine')))
    await until(() => heard.every(h => h.length === 101), 'all messages')
    for (const h of heard) assert.deepEqual(h, [...range(100).map(String), 'mine'])
    subs.forEach(sub => sub.disconnect())
  },
  'a killed subscriber subscribes again by itself': async () => {
    const sub = open({ retryStrategy: () => 20 })
    const heard = []
    sub.on('message', (channel, message) => heard.push(message))
    const id = await sub.client('ID')
    await sub.subscribe('again')
    await admin.client('KILL', 'ID', id)
    await until(async () => (await admin.publish('again', 'back')) && heard.includes('back'), 'it is subscribed again')
    sub.disconnect()
  },
  'a monitor sees what others do': async () => {
    const r = open()
    const monitor = await r.monitor()
    const seen = []
    monitor.on('monitor', (time, args) => seen.push(args.join(' ')))
    await r.set('seen', 'by the monitor')
    await until(() => seen.some(s => s.toLowerCase() === 'set seen by the monitor'), 'the command is seen')
    monitor.disconnect()
    assert.equal(await r.get('seen'), 'by the monitor')
    await r.quit()
  },
  'autopipelining and transactions go together': async () => {
    const r = open({ enableAutoPipelining: true })
    await Promise.all(range(300).map(async n => {
      const [value, transaction] = await Promise.all([r.echo(`${n}`), r.multi().set(`a:${n}`, n).get(`a:${n}`).exec()])
      assert.equal(value, `${n}`)
      assert.deepEqual(transaction, [[null, 'OK'], [null, `${n}`]])
      assert.equal(await r.get(`a:${n}`), `${n}`)
    }))
    await r.quit()
  },
  'key prefixes reach every kind of command': async () => {
    const r = open({ keyPrefix: 'pre:' })
    const waiter = r.duplicate()
    r.defineCommand('bump', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" })
    assert.deepEqual((await r.multi().set('k', 1).bump('k', 4).exec()).map(([, v]) => v), ['OK', 5])
    const wait = waiter.blpop('q', 0)
    await blocked(1)
    await admin.rpush('pre:q', 'x')
    assert.deepEqual(await wait, ['pre:q', 'x'])
    assert.equal(await admin.get('pre:k'), '5')
    await Promise.all([r.quit(), waiter.quit()])
  },
  'scripts of the client are loaded where they are missing': async () => {
    // Pipelines and transactions ask for missing scripts before they start; a single command falls back to EVAL.
    for (const turn of range(3)) {
      const r = open()
      r.defineCommand('bump', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" })
      await admin.script('FLUSH')
      const pipeline = await (turn % 2 ? r.multi() : r.pipeline()).bump('b', 1).get('b').bump('b', 1).exec()
      assert.deepEqual(pipeline.map(([, v]) => Number(v)), [3 * turn + 1, 3 * turn + 1, 3 * turn + 2])
      await admin.script('FLUSH')
      assert.equal(await r.bump('b', 1), 3 * turn + 3)
      await r.quit()
    }
  },
})
